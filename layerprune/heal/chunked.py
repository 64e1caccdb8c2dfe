"""A loss over many positions whose logits are never there all at once.

The logits of a step, [B, T, V], are the largest thing in training a small model, and their
gradient is as large again. Here a chunk of positions goes through the head, its loss is taken, and
its gradient goes back to the states at once; then the chunk's logits are gone.

Letters: N positions, H hidden size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Slice = slice
"""Which positions a chunk covers."""

ChunkLoss = Callable[[Tensor, Slice], Tensor]
"""From states [n, H] of the positions in a slice to the sum of their losses."""

LOGITS_AT_ONCE = 1 << 24
"""Numbers in a chunk of logits: 64 MiB in float32."""


def summed(
    hidden_NH: Tensor, loss: ChunkLoss, vocabulary: int, trained: Sequence[nn.Parameter]
) -> Tensor:
    """The sum of `loss` over all positions, a chunk at a time.

    Gradients flow to `hidden_NH` and to the parameters in `trained`: all that `loss` reads and that
    is to learn must be named there.
    """
    size = max(1, LOGITS_AT_ONCE // vocabulary)
    if not torch.is_grad_enabled():
        chunks = [loss(hidden_NH[at], at) for at in _slices(len(hidden_NH), size)]
        return torch.stack(chunks).sum()
    result = _Summed.apply(hidden_NH, loss, size, *trained)
    assert isinstance(result, Tensor)
    return result


def _slices(count: int, size: int) -> list[Slice]:
    return [slice(at, min(at + size, count)) for at in range(0, count, size)]


class _Summed(torch.autograd.Function):
    """Computes the gradient while it computes the loss, and hands it out in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, loss: ChunkLoss, size: int, *trained: Tensor
    ) -> Tensor:
        total = hidden_NH.new_zeros((), dtype=torch.float32)
        slope_NH = torch.empty_like(hidden_NH)
        slopes = [torch.zeros_like(each) for each in trained]
        for at in _slices(len(hidden_NH), size):
            with torch.enable_grad():
                part_nH = hidden_NH[at].detach().requires_grad_()
                value = loss(part_nH, at)
            slope_nH, *others = torch.autograd.grad(value, (part_nH, *trained))
            slope_NH[at] = slope_nH
            for sum_, other in zip(slopes, others, strict=True):
                sum_ += other
            total += value.detach()
        ctx.save_for_backward(slope_NH, *slopes)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        slope_NH, *slopes = ctx.saved_tensors
        (by,) = upstream
        return slope_NH * by, None, None, *(slope * by for slope in slopes)
