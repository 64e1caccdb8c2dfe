"""A loss over many positions that never holds all their logits at once.

The logits of a step, [B, T, V], are the largest tensor in training a small model, and their
gradient is as large again. Here one chunk of positions at a time goes through the head; its loss is
computed and immediately backpropagated to the states, so only one chunk's logits exist.

Letters: N positions, n positions of a chunk, H hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ChunkLoss = Callable[[Tensor, slice], Tensor]
"""Maps states [n, H] of the positions in a slice to the sum of their losses."""


def chunked_sum(
    hidden_NH: Tensor, loss: ChunkLoss, chunk: int, trained: Sequence[nn.Parameter]
) -> Tensor:
    """Return the sum of `loss` over all positions, `chunk` positions at a time.

    Gradients flow to `hidden_NH` and to the parameters in `trained`, which must include every
    trainable parameter that `loss` reads.
    """
    if not torch.is_grad_enabled():
        return torch.stack([loss(hidden_NH[n], n) for n in _chunks(len(hidden_NH), chunk)]).sum()
    total = _ChunkedSum.apply(hidden_NH, loss, chunk, *trained)
    assert isinstance(total, Tensor)
    return total


def _chunks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


class _ChunkedSum(torch.autograd.Function):
    """Computes the gradients along with the loss, and returns them in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, loss: ChunkLoss, chunk: int, *trained: Tensor
    ) -> Tensor:
        total = hidden_NH.new_zeros((), dtype=torch.float32)
        grad_NH = torch.empty_like(hidden_NH)
        grads = [torch.zeros_like(parameter) for parameter in trained]
        for positions in _chunks(len(hidden_NH), chunk):
            with torch.enable_grad():
                hidden_nH = hidden_NH[positions].detach().requires_grad_()
                value = loss(hidden_nH, positions)
            grad_NH[positions], *chunk_grads = torch.autograd.grad(value, (hidden_nH, *trained))
            for grad, chunk_grad in zip(grads, chunk_grads, strict=True):
                grad += chunk_grad
            total += value.detach()
        ctx.save_for_backward(grad_NH, *grads)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        grad_NH, *grads = ctx.saved_tensors
        (scale,) = upstream
        return grad_NH * scale, None, None, *(grad * scale for grad in grads)
