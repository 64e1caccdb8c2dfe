"""First-order estimate of the loss without a layer, from one gradient.

Letters: B batch, T time, N sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from layerprune.config.registry import metric
from layerprune.prune.metrics import LayerMetric, MetricContext

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_TOKENS = 512
"""In a backward pass, which holds logits for all of them."""


@metric(
    "taylor",
    reference="LLM-Pruner, Ma et al., arXiv 2305.11627; Shortened LLaMA, Kim et al., arXiv "
    "2402.02834",
)
class Taylor(LayerMetric):
    """Sum of |w dL/dw| over a layer's weights w, with L the mean loss on the text, in nats.

    Setting w to 0 changes L by -w dL/dw to first order.
    """

    uses_gradients: ClassVar[bool] = True

    def importance(self, context: MetricContext) -> list[float]:
        """Add up gradients over all sequences in float32, and take magnitudes of the sums."""
        import torch

        from layerprune.model.stack import decoder_stack
        from layerprune.runtime.progress import progress_bar

        model, ids_NT = context.model, context.ids_NT
        layers = [list(layer.parameters()) for layer in decoder_stack(model).layers]
        weights: list[Tensor] = [weight for layer in layers for weight in layer]
        total = [weight.new_zeros(weight.shape, dtype=torch.float32) for weight in weights]
        batches = ids_NT.split(max(1, MAX_TOKENS // ids_NT.shape[1]))
        with _gradients_of(model, weights), progress_bar("gradients", total=len(ids_NT)) as advance:
            for ids_BT in batches:
                ids_BT = ids_BT.to(model.device)
                loss = model(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss
                # An expert that no token went to has no gradient.
                parts = torch.autograd.grad(
                    loss * (len(ids_BT) / len(ids_NT)), weights, materialize_grads=True
                )
                for sum_, part in zip(total, parts, strict=True):
                    sum_ += part
                advance(len(ids_BT))
        estimates = iter(
            float((weight.detach() * sum_).abs().sum(dtype=torch.float64))
            for weight, sum_ in zip(weights, total, strict=True)
        )
        return [sum(next(estimates) for _ in layer) for layer in layers]


@contextmanager
def _gradients_of(model: nn.Module, weights: Sequence[Tensor]) -> Iterator[None]:
    """Take gradients of these weights alone inside the block."""
    import torch

    before = [(weight, weight.requires_grad) for weight in model.parameters()]
    for weight, _ in before:
        weight.requires_grad_(False)
    for trained in weights:
        trained.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for weight, required in before:
            weight.requires_grad_(required)
