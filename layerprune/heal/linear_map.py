"""The least-squares map of a dropped block, folded into the projection before it.

The layer before the block ends with residual + a W, where a is the input of its last feed-forward
projection and W that projection's weight. With W + D in place of W, that layer approximates the
block's output y: D minimises the sum over tokens of |a D - (y - x)|^2 / |y|^2, plus ridge |D|^2,
where x is the block's input. No parameter is added.

Each token has the weight 1 / |y|^2, since the layers above normalise y. Without it, the few tokens
of enormous norm (attention sinks) dominate: on the bundled model with layers 10 to 18 dropped, the
held-out loss then rose from 6.0 to 7.5 nats instead of falling to 4.2.

Source: the idea of ReplaceMe (arXiv 2505.02819), which maps the projection's output. Here the map
is from its input, which is more expressive, with weights, and a ridge that pulls D towards 0.
Letters: N tokens, F size of the projection's input (plus 1 if it has a bias), H hidden size.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from layerprune.errors import UserError
from layerprune.heal.setup import dropped_block
from layerprune.model.stack import decoder_stack, feed_forward_projections
from layerprune.prune.plan import Plan

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Ridges in units of the mean square of a; the best one on the validation sequences is used."""

VALIDATION_SHARE = 0.2
"""Share of the sequences that choose the ridge and are not fitted to."""

BATCH = 8


@dataclass
class _Moments:
    """Sums over tokens in float64: all that least squares needs."""

    gram: Any = 0.0
    """a'a [F, F]; here and below each token's a and d are divided by its |y|."""
    cross: Any = 0.0
    """a'd [F, H], where d = y - x is the block's contribution."""
    square: float = 0.0
    """|d|^2."""
    tokens: int = 0


@dataclass(frozen=True)
class LinearMap:
    """A least-squares map and its quality."""

    change: Tensor
    """D [F, H], float64: added to the projection's weight and, as the last row, to its bias."""
    ridge: float
    explained: float
    """Share of the weighted square of y - x that the map explains on the validation tokens."""
    tokens: int


def fit(model: PreTrainedModel, plan: Plan, ids_ST: Tensor) -> LinearMap:
    """Return the map for a plan's block, from one pass of the dense model over sequences [S, T].

    Raises `UserError` unless the plan is one block with a layer before it, and that layer simply
    adds the output of its last projection.
    """
    first, last = _block(plan)
    layers = decoder_stack(model).layers
    before, projection = layers[first - 1], _projection(layers[first - 1])
    if not _adds(model, before, projection, ids_ST[:1]):
        raise UserError(
            f"heal=linear: {model.config.model_type} does not simply add the output of a layer's "
            "feed-forward part, so nothing can be folded into it."
        )
    split = max(1, round(len(ids_ST) * (1 - VALIDATION_SHARE)))
    learn, validation = (
        _moments(model, (projection, before, layers[last]), part_ST)
        for part_ST in (ids_ST[:split], ids_ST[split:])
    )
    unit = float(learn.gram.diagonal().mean())
    eye = torch.eye(len(learn.gram), dtype=torch.float64, device=learn.gram.device)
    candidates = (
        (ridge, torch.linalg.solve(learn.gram + ridge * unit * eye, learn.cross))
        for ridge in RIDGES
    )
    chooses = validation if validation.tokens else learn
    scored = ((_explained(chooses, map_FH), ridge, map_FH) for ridge, map_FH in candidates)
    explained, ridge, map_FH = max(scored, key=itemgetter(0))
    return LinearMap(map_FH, ridge, explained, learn.tokens + validation.tokens)


def fold(model: PreTrainedModel, plan: Plan, linear_map: LinearMap) -> None:
    """Fold the map into the model, in place, before or after the block is dropped."""
    first, _ = _block(plan)
    projection: Any = _projection(decoder_stack(model).layers[first - 1])
    projection.requires_grad_(True)  # marks the weights that healing changed
    with torch.no_grad():
        weight, bias = projection.weight, projection.bias
        change_FH = linear_map.change.to(weight.device)
        if bias is not None:
            bias.copy_((bias.double() + change_FH[-1]).to(bias.dtype))
            change_FH = change_FH[:-1]
        # Conv1D keeps its weight as [in, out], Linear as [out, in].
        change = change_FH if isinstance(projection, Conv1D) else change_FH.T
        weight.copy_((weight.double() + change).to(weight.dtype))


def _block(plan: Plan) -> tuple[int, int]:
    """Return the first and last layer of a plan that is one block with a layer before it."""
    block = dropped_block(plan, "linear")
    if block.start == 0:
        raise UserError("heal=linear needs a layer before the block; this plan drops layer 0.")
    return block.start, block.stop - 1


def _projection(layer: nn.Module) -> nn.Module:
    projections = [module for _, module in feed_forward_projections(layer)]
    if not projections:
        raise UserError("heal=linear: the layer before the block has no feed-forward projection.")
    return projections[-1]


def _moments(
    model: PreTrainedModel, modules: tuple[nn.Module, nn.Module, nn.Module], ids_ST: Tensor
) -> _Moments:
    """Return the sums over sequences [S, T].

    `modules` are the projection, the layer before the block, and the block's last layer.
    """
    sums = _Moments()
    with torch.inference_mode(), _recorded(*modules) as calls:
        for ids_BT in ids_ST.split(BATCH):
            decoder_stack(model).decoder(input_ids=ids_BT.to(model.device), use_cache=False)
            (input_NF, _), (_, before_NH), (_, after_NH) = (
                # Some layers flatten batch and time for their feed-forward part.
                tuple(tensor.flatten(0, -2).double() for tensor in call)
                for call in calls
            )
            if getattr(modules[0], "bias", None) is not None:
                input_NF = torch.cat([input_NF, torch.ones_like(input_NF[:, :1])], dim=1)
            weight_N1 = 1 / after_NH.norm(dim=-1, keepdim=True)
            missing_NH = (after_NH - before_NH) * weight_N1
            input_NF = input_NF * weight_N1
            sums.gram += input_NF.T @ input_NF
            sums.cross += input_NF.T @ missing_NH
            sums.square += float(missing_NH.square().sum())
            sums.tokens += len(input_NF)
            calls.clear()
    return sums


def _explained(sums: _Moments, map_FH: Tensor) -> float:
    """Return 1 - |a D - d|^2 / |d|^2, computed from the sums."""
    cross = float((map_FH * sums.cross).sum())
    square = float((map_FH * (sums.gram @ map_FH)).sum())
    return (2 * cross - square) / sums.square


def _adds(model: PreTrainedModel, layer: nn.Module, projection: nn.Module, ids_1T: Tensor) -> bool:
    """Return True if a change of the projection's output changes the layer's output equally."""
    push: Tensor | None = None

    def nudge(_module: object, _args: object, output: Tensor) -> Tensor:
        return output if push is None else output + push

    with (
        torch.inference_mode(),
        projection.register_forward_hook(nudge),
        _recorded(projection, layer) as calls,
    ):
        ids_1T = ids_1T.to(model.device)
        decoder_stack(model).decoder(input_ids=ids_1T, use_cache=False)
        (_, written), (_, plain) = calls
        if written.numel() != plain.numel():  # a gate, with one number per token
            return False
        generator = torch.Generator().manual_seed(0)
        # As large as the output itself, so that rounding cannot hide its effect.
        push = torch.randn(written.shape, generator=generator).to(written) * plain.std()
        calls.clear()
        decoder_stack(model).decoder(input_ids=ids_1T, use_cache=False)
        moved = (calls[1][1] - plain).view_as(push)
    tolerance = 1e-3 if written.dtype is torch.float32 else 5e-2
    return bool((moved - push).norm() <= tolerance * push.norm())


@contextmanager
def _recorded(*modules: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield the inputs and outputs of modules in execution order; clear it between passes."""
    calls: list[tuple[Tensor, Tensor]] = []

    def record(
        _module: object,
        args: tuple[Tensor, ...],
        kwargs: dict[str, Tensor],
        output: Tensor | tuple[Tensor, ...],
    ) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        calls.append((hidden, output if isinstance(output, Tensor) else output[0]))

    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_hook(record, with_kwargs=True))
        yield calls
