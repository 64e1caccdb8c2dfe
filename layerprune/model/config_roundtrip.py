"""Check that a pruned model's configuration describes it, by building a model from it.

Whoever loads the checkpoint builds the model from `config.json`, and must get the same parts with
the same parameters and the same numbers, such as a window or a scale computed from a layer's index.
The model is built on the meta device, which takes neither time nor memory for weights.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights, no_tie_weights

from layerprune.model.stack import DecoderStack, UnsupportedArchitecture, decoder_stack

IGNORED_ATTRIBUTES = {
    "attention_layers": "the kinds of all layers, read while parts are built",
    "training": "a mode",
    "gradient_checkpointing": "a mode",
    "num_hidden_layers": "read while weights are initialised",
}
"""Attributes of a layer's parts that may differ, and why."""


def check_rebuilt(model: PreTrainedModel, layers: Sequence[int]) -> None:
    """Raise `UnsupportedArchitecture` if a model without `layers` differs from its configuration.

    The message names the part of the model that differs, with both values.
    """
    without = f"{model.config.model_type}: without layers {sorted(layers)}, config.json would"
    try:
        rebuilt = decoder_stack(_rebuilt(model))
    except Exception as error:  # each family has its own checks of a configuration
        reason = str(error).strip().split("\n")[-1].strip()
        raise UnsupportedArchitecture(f"{without} not be loaded: {reason}") from error
    for name, actual, described in _differences(decoder_stack(model), rebuilt):
        raise UnsupportedArchitecture(
            f"{without} describe another model: {name} is {actual} and would be {described}."
        )


def _rebuilt(model: PreTrainedModel) -> PreTrainedModel:
    config = type(model.config).from_dict(copy.deepcopy(model.config.to_diff_dict()))
    with torch.device("meta"), no_init_weights(), no_tie_weights():
        return type(model)(config)


def _differences(ours: DecoderStack, theirs: DecoderStack) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, value in the model, value by its configuration) of all that differs."""
    counts = len(ours.layers), len(theirs.layers)
    if counts[0] != counts[1]:
        yield "the number of layers", *counts
        return
    names = [
        {name for name, _ in stack.decoder.named_parameters(remove_duplicate=False)}
        for stack in (ours, theirs)
    ]
    if names[0] != names[1]:
        only_ours, only_theirs = names[0] - names[1], names[1] - names[0]
        yield "the names of parameters", sorted(only_ours)[:1], sorted(only_theirs)[:1]
        return
    for path, part in ours.layers.named_modules():
        yield from _part_differences(f"layers.{path}", part, theirs.layers.get_submodule(path))


def _part_differences(
    path: str, ours: nn.Module, theirs: nn.Module
) -> Iterator[tuple[str, Any, Any]]:
    if list(ours.children()) and type(ours) is not type(theirs):
        yield path, type(ours).__name__, type(theirs).__name__
    for name, weight in ours.named_parameters(recurse=False):
        other = theirs.get_parameter(name)
        # Weights in four bits have another shape.
        if weight.is_floating_point() and weight.shape != other.shape:
            yield f"{path}.{name}", tuple(weight.shape), tuple(other.shape)
    for name, value in vars(ours).items():
        if name.startswith("_") or name in IGNORED_ATTRIBUTES or not _is_plain(value):
            continue
        other_value = vars(theirs).get(name, value)
        if _is_plain(other_value) and not _close(value, other_value):
            yield f"{path}.{name}", value, other_value


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
