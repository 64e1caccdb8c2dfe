"""First-order estimate of what is lost without a layer, from one gradient.

Letters: B batch, T time, N sequences.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerprune.model.stack import decoder_stack
from layerprune.paths.room import Room
from layerprune.progress import bar

TOKENS_AT_ONCE = 512
"""In a backward pass, which holds logits for all of them."""


def taylor(
    model: PreTrainedModel, ids_NT: Tensor, seed: int, room: Room | None = None
) -> list[float]:
    """Of each layer, the sum of |w dL/dw| over all its weights w, with L the mean loss on the text.

    In nats: setting w to 0 changes L by -w dL/dw to first order. Gradients are added up over all
    sequences in float32, and the magnitude is taken of the sum. The model is left as it was.
    Source: LLM-Pruner (Ma et al., arXiv 2305.11627), for whole layers in Shortened LLaMA (Kim et
    al., arXiv 2402.02834).
    """
    layers = [list(layer.parameters()) for layer in decoder_stack(model).layers]
    weights: list[Tensor] = [weight for layer in layers for weight in layer]
    total = [weight.new_zeros(weight.shape, dtype=torch.float32) for weight in weights]
    batches = ids_NT.split(max(1, TOKENS_AT_ONCE // ids_NT.shape[1]))
    with _gradients_of(model, weights), bar("gradients", total=len(ids_NT)) as advance:
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
    """Gradients are taken of these weights alone inside the block."""
    before = [(weight, weight.requires_grad) for weight in model.parameters()]
    for weight, _ in before:
        weight.requires_grad_(False)
    for one in weights:
        one.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for weight, wanted in before:
            weight.requires_grad_(wanted)
