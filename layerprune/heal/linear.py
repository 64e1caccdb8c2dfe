"""No training: a dropped block's least-squares map, folded into the projection before it.

The layer before the block ends with residual + a W, where a is what its last feed-forward
projection reads and W that projection's weight. With W + D in place of W, that layer can put out
nearly what the block would have: D minimises the sum over tokens of |a D - (y - x)|^2 / |y|^2, plus
ridge |D|^2, where x is the block's input and y its output. No parameter is added.

Each token is weighed by 1 / |y|^2, since the layers above look at y through a norm. Unweighed, the
few tokens of enormous norm that attention sinks have decide alone: on the embedded model with
layers 10 to 18 dropped, the held-out loss then rose from 6.0 to 7.5 nats instead of falling to 4.2.

Source: the idea of ReplaceMe (arXiv 2505.02819), which maps what the projection writes; with a map
of what it reads, which can say more, with weights, and a ridge that pulls towards doing nothing.
Letters: N tokens, F size of what the projection reads (and 1 where it has a bias), H hidden size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from layerprune.errors import UserError
from layerprune.heal.projections import feed_forward
from layerprune.model.stack import decoder_stack, text_config
from layerprune.plan.plan import Plan

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Tried on held-back sequences, each times the mean square of a; the best is taken."""

HELD_BACK = 0.2
"""Share of the sequences that choose the ridge and are not fitted to."""

BATCH = 8


@dataclass
class _Moments:
    """Sums over tokens, float64: all that least squares needs."""

    read: Tensor
    """a'a [F, F]; here and below each token's a and d are divided by its |y|."""
    cross: Tensor
    """a'd [F, H], where d = y - x is what the block adds."""
    square: float
    """|d|^2."""
    tokens: int


@dataclass(frozen=True)
class Fit:
    """The map that was found."""

    change: Tensor
    """D [F, H], float64: what is added to the projection's weight and, as the last row, bias."""
    ridge: float
    explained: float
    """Share of the weighed square of y - x on held-back tokens that the map accounts for."""
    tokens: int


def fit(model: PreTrainedModel, plan: Plan, ids_ST: Tensor) -> Fit:
    """The map for a plan's block, from one pass of the whole, uncut model over sequences [S, T].

    Raises `UserError` where the plan is not one block with a layer before it, or where that layer
    does not simply add what its last projection writes.
    """
    first, last = _block(plan)
    layers = decoder_stack(model).layers
    projection = _projection(layers[first - 1])
    if not _adds(model, layers[first - 1], projection, ids_ST[:1]):
        raise UserError(
            f"heal=linear: {model.config.model_type} does not simply add what the feed-forward "
            "part of a layer writes, so nothing can be folded into it."
        )
    split = max(1, round(len(ids_ST) * (1 - HELD_BACK)))
    learn = _moments(model, layers, projection, first, last, ids_ST[:split])
    check = _moments(model, layers, projection, first, last, ids_ST[split:])
    assert learn is not None
    judge = check or learn
    unit = float(learn.read.diagonal().mean())
    eye = torch.eye(len(learn.read), dtype=torch.float64, device=learn.read.device)
    best: tuple[float, float, Tensor] | None = None
    for ridge in RIDGES:
        map_FH = torch.linalg.solve(learn.read + ridge * unit * eye, learn.cross)
        explained = _explained(judge, map_FH)
        if best is None or explained > best[0]:
            best = explained, ridge, map_FH
    assert best is not None
    return Fit(best[2], best[1], best[0], learn.tokens + (check.tokens if check else 0))


def fold(model: PreTrainedModel, plan: Plan, found: Fit) -> None:
    """Fold the map into the model, in place, before or after the block is dropped."""
    first, _ = _block(plan)
    projection: Any = _projection(decoder_stack(model).layers[first - 1])
    projection.requires_grad_(True)  # these are the weights that a healing changed
    with torch.no_grad():
        weight, bias = projection.weight, projection.bias
        change_FH = found.change.to(weight.device)
        if bias is not None:
            bias.copy_((bias.double() + change_FH[-1]).to(bias.dtype))
            change_FH = change_FH[:-1]
        # Conv1D keeps its weight as [in, out], Linear as [out, in].
        change = change_FH if isinstance(projection, Conv1D) else change_FH.T
        weight.copy_((weight.double() + change).to(weight.dtype))


def _block(plan: Plan) -> tuple[int, int]:
    """First and last layer of a plan that is one block with a layer before it."""
    first, last = plan.dropped[0], plan.dropped[-1]
    if last - first + 1 != len(plan.dropped):
        raise UserError(
            f"heal=linear needs one block of layers; this plan drops {list(plan.dropped)}."
        )
    if first == 0:
        raise UserError("heal=linear needs a layer before the block; this plan drops layer 0.")
    return first, last


def _projection(layer: nn.Module) -> nn.Module:
    found = [part for _, part in feed_forward(layer)]
    if not found:
        raise UserError("heal=linear: the layer before the block has no feed-forward projection.")
    return found[-1]


def _moments(
    model: PreTrainedModel,
    layers: nn.ModuleList,
    projection: nn.Module,
    first: int,
    last: int,
    ids_ST: Tensor,
) -> _Moments | None:
    """The sums over sequences [S, T]; None if there are none."""
    size = int(text_config(model).hidden_size)
    sums: _Moments | None = None
    with torch.inference_mode(), _caught(projection, layers[first - 1], layers[last]) as seen:
        for ids_BT in ids_ST.split(BATCH):
            decoder_stack(model).decoder(input_ids=ids_BT.to(model.device), use_cache=False)
            (read, _), (_, before), (_, after) = (
                # Some layers flatten batch and time for their feed-forward part.
                tuple(part.flatten(0, -2).double() for part in pair)
                for pair in seen
            )
            if getattr(projection, "bias", None) is not None:
                read = torch.cat([read, torch.ones_like(read[:, :1])], dim=1)
            weight_N1 = 1 / after.norm(dim=-1, keepdim=True)
            missing_NH = (after - before) * weight_N1
            read_NF = read * weight_N1
            if sums is None:
                sums = _Moments(
                    read_NF.new_zeros((read_NF.shape[1],) * 2),
                    read_NF.new_zeros((read_NF.shape[1], size)),
                    0.0,
                    0,
                )
            sums.read += read_NF.T @ read_NF
            sums.cross += read_NF.T @ missing_NH
            sums.square += float(missing_NH.square().sum())
            sums.tokens += len(read_NF)
            seen.clear()
    return sums


def _explained(on: _Moments, map_FH: Tensor) -> float:
    """1 - |a D - d|^2 / |d|^2 from the sums alone."""
    cross = float((map_FH * on.cross).sum())
    square = float((map_FH * (on.read @ map_FH)).sum())
    return (2 * cross - square) / on.square


def _adds(model: PreTrainedModel, layer: nn.Module, projection: nn.Module, ids_1T: Tensor) -> bool:
    """Whether a change of what the projection writes changes the layer's output just so."""
    push: Tensor | None = None

    def nudge(_module: object, _args: object, output: Tensor) -> Tensor:
        return output if push is None else output + push

    handle = projection.register_forward_hook(nudge)
    try:
        with torch.inference_mode(), _caught(projection, layer) as seen:
            ids_1T = ids_1T.to(model.device)
            decoder_stack(model).decoder(input_ids=ids_1T, use_cache=False)
            (_, written), (_, plain) = seen
            if written.numel() != plain.numel():  # a gate, of which there is one a token
                return False
            generator = torch.Generator().manual_seed(0)
            # As large as the output itself, so that rounding cannot hide what becomes of it.
            push = torch.randn(written.shape, generator=generator).to(written) * plain.std()
            seen.clear()
            decoder_stack(model).decoder(input_ids=ids_1T, use_cache=False)
            moved = (seen[1][1] - plain).view_as(push)
    finally:
        handle.remove()
    tolerance = 1e-3 if written.dtype is torch.float32 else 5e-2
    return bool((moved - push).norm() <= tolerance * push.norm())


@contextmanager
def _caught(*modules: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What modules read and put out, in the order in which they run; clear it between passes."""
    seen: list[tuple[Tensor, Tensor]] = []

    def catch(
        _module: object,
        args: tuple[Tensor, ...],
        kwargs: dict[str, Tensor],
        output: Tensor | tuple[Tensor, ...],
    ) -> None:
        read = args[0] if args else kwargs["hidden_states"]
        seen.append((read, output if isinstance(output, Tensor) else output[0]))

    handles = [module.register_forward_hook(catch, with_kwargs=True) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
