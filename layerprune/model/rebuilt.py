"""Whether a configuration describes the layers that a model has: the model is built from it again.

A cut model is loaded by whoever reads its `config.json`, and what that builds must be what was cut:
the same parts with the same parameters and the same numbers, such as a window or a scale that was
worked out from a layer's index. Built on the meta device, where weights take neither time nor room.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights, no_tie_weights

from layerprune.model.stack import DecoderStack, UnsupportedArchitecture, decoder_stack

OF_NO_ACCOUNT = {
    "attention_layers": "the kinds of all layers, read while parts are built",
    "training": "a mode",
    "gradient_checkpointing": "a mode",
    "num_hidden_layers": "read while weights are initialised",
}
"""What a layer's parts may say otherwise, and why."""


def check_rebuilt(model: PreTrainedModel, layers: Sequence[int]) -> None:
    """Raise `UnsupportedArchitecture` if a model without `layers` is not what its files would say.

    Says where it differs: the part of the model and what it has there and would have.
    """
    without = f"{model.config.model_type}: without layers {sorted(layers)}, config.json would"
    try:
        theirs = decoder_stack(_rebuilt(model))
    except Exception as error:  # each family has its own checks of a configuration
        reason = str(error).strip().split("\n")[-1].strip()
        raise UnsupportedArchitecture(f"{without} not be loaded: {reason}") from error
    for what, ours, other in _differences(decoder_stack(model), theirs):
        raise UnsupportedArchitecture(
            f"{without} describe another model: {what} is {ours} and would be {other}."
        )


def _rebuilt(model: PreTrainedModel) -> PreTrainedModel:
    config = type(model.config).from_dict(copy.deepcopy(model.config.to_diff_dict()))
    with torch.device("meta"), no_init_weights(), no_tie_weights():
        return type(model)(config)


def _differences(ours: DecoderStack, theirs: DecoderStack) -> Iterator[tuple[str, Any, Any]]:
    for what, values in (
        ("the number of layers", [len(stack.layers) for stack in (ours, theirs)]),
        ("the names of parameters", [_names(stack.decoder) for stack in (ours, theirs)]),
    ):
        if values[0] != values[1]:
            yield what, *_first_difference(*values)
            return
    for path, part in ours.layers.named_modules():
        yield from _of_part(f"layers.{path}", part, theirs.layers.get_submodule(path))


def _of_part(path: str, ours: nn.Module, theirs: nn.Module) -> Iterator[tuple[str, Any, Any]]:
    if list(ours.children()) and type(ours) is not type(theirs):
        yield path, type(ours).__name__, type(theirs).__name__
    for name, weight in ours.named_parameters(recurse=False):
        other = theirs.get_parameter(name)
        # Weights in four bits have another shape.
        if weight.is_floating_point() and weight.shape != other.shape:
            yield f"{path}.{name}", tuple(weight.shape), tuple(other.shape)
    for name, value in vars(ours).items():
        if name.startswith("_") or name in OF_NO_ACCOUNT or not _is_plain(value):
            continue
        other_value = vars(theirs).get(name, value)
        if _is_plain(other_value) and not _close(value, other_value):
            yield f"{path}.{name}", value, other_value


def _names(part: nn.Module) -> set[str]:
    return {name for name, _ in part.named_parameters(remove_duplicate=False)}


def _first_difference(ours: Any, theirs: Any) -> tuple[Any, Any]:
    if isinstance(ours, set):
        return sorted(ours - theirs)[:1], sorted(theirs - ours)[:1]
    return ours, theirs


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or abs(one - other) <= 1e-9 * abs(one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return list(one) == list(other)
    return bool(one == other)
