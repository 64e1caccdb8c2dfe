"""Remove layers from a model, in place, so that everything that counts layers still agrees.

`layer` is an index in the original model; `slot` is an index after the cut.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from layerprune.model.config_roundtrip import check_rebuilt
from layerprune.model.config_surgery import cut_config
from layerprune.model.refused import NOT_DECODERS, REFUSED
from layerprune.model.remote_code import runs_remote_code
from layerprune.model.self_check import cut_check
from layerprune.model.stack import (
    DecoderStack,
    UnsupportedArchitecture,
    decoder_stack,
    num_layers,
    text_config,
)
from layerprune.model.verified import VERIFIED

INDEX_NAMES = ("layer_idx", "layer_id", "layer_number")
"""Attributes of a layer's parts that hold its index."""


def drop_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Remove `layers` (0-based, in any order) from a causal language model.

    Changes the model in place and returns it: the list of layers, the layer indices that the
    key-value cache uses, and the configuration's counts and per-layer lists, so that the model
    runs, generates, and can be saved and loaded by plain transformers. Weights are not touched.

    Raises `UnsupportedArchitecture` for a model type that has not been verified, if no
    configuration of its type describes the remaining layers, and for a model with its own code that
    does not run without `layers` as if they were the identity; `ValueError` for indices that the
    model does not have. The model is unchanged then.
    """
    _cut_savable(model, layers)
    return model


@contextmanager
def dropped(model: PreTrainedModel, layers: Sequence[int]) -> Iterator[PreTrainedModel]:
    """Remove `layers` inside the block; afterwards the model is bit-identical to before."""
    undo = _cut(model, layers)
    try:
        yield model
    finally:
        undo()


def limited_to(
    model: PreTrainedModel, path: Sequence[int]
) -> AbstractContextManager[PreTrainedModel]:
    """Limit the model to the layers of `path` inside the block, as `dropped` does."""
    every_layer = range(len(decoder_stack(model).layers))
    return dropped(model, [layer for layer in every_layer if layer not in path])


class ReversibleCut:
    """A pruned model that can be dense again for a while.

    Weights are shared: training the remaining layers changes them in both.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        """Remove `layers` as `drop_layers` does."""
        self.model = model
        self._layers = tuple(layers)
        self._undo = _cut_savable(model, layers)

    @contextmanager
    def dense(self) -> Iterator[PreTrainedModel]:
        """Put all layers back inside the block."""
        self._undo()
        try:
            yield self.model
        finally:
            self._undo = _cut(self.model, self._layers, saved=True)


def _cut_savable(model: PreTrainedModel, layers: Sequence[int]) -> Callable[[], None]:
    """Remove `layers`, or raise if the configuration does not describe what remains.

    Returns the function that puts everything back.
    """
    undo = _cut(model, layers, saved=True)
    try:
        if layers:
            check_rebuilt(model, layers)
    except UnsupportedArchitecture:
        undo()
        raise
    return undo


def _cut(model: PreTrainedModel, layers: Sequence[int], saved: bool = False) -> Callable[[], None]:
    """Remove `layers`; returns the function that puts everything back."""
    if not layers:
        return lambda: None
    remote_code = runs_remote_code(model)
    if not remote_code:
        refuse_unverified(model.config.model_type)
    stack = decoder_stack(model)
    _check_layers(layers, len(stack.layers))
    original = list(stack.layers)
    kept = [layer for layer in range(len(original)) if layer not in layers]
    # Everything is computed, and may be refused, before anything is changed.
    configs = [(vars(config), vars(cut_config(config, kept, saved))) for config in _configs(model)]
    before = [dict(settings) for settings, _ in configs]
    indices = list(_indices(stack, kept))
    remaining = [original[layer] for layer in kept]
    removed = [original[layer] for layer in layers]
    check = cut_check(model, removed, remaining) if remote_code else None

    for settings, after in configs:
        _set(settings, after)
    _set_layers(stack, remaining)
    for part, name, _, slot in indices:
        setattr(part, name, slot)

    def undo() -> None:
        for (settings, _), old in zip(configs, before, strict=True):
            _set(settings, old)
        _set_layers(stack, original)
        for part, name, layer, _ in indices:
            setattr(part, name, layer)

    if check is not None:
        try:
            check()
        except UnsupportedArchitecture:
            undo()
            raise
    return undo


def _configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Return every object that describes the decoder: parts may hold copies."""
    config = text_config(model)
    count = num_layers(config)
    configs = {id(config): config}
    for part in model.modules():
        own = getattr(part, "config", None)
        if type(own) is type(config) and num_layers(own) == count:
            configs[id(own)] = own
    return list(configs.values())


def _indices(stack: DecoderStack, kept: list[int]) -> Iterator[tuple[Any, str, int, int]]:
    """Yield (part, attribute, value before, value after) for all that hold a layer's index."""
    count = getattr(getattr(stack.decoder, "config", None), "num_hidden_layers", 0)
    # In some families a layer has several attentions, each with its own keys and values.
    parts_per_layer = max(1, count // len(stack.layers))
    for slot, layer in enumerate(kept):
        for part in stack.layers[layer].modules():
            for name in INDEX_NAMES:
                index = vars(part).get(name)
                if type(index) is not int:
                    continue
                if index == layer:
                    yield part, name, index, slot
                elif index // parts_per_layer == layer:
                    yield part, name, index, slot * parts_per_layer + index % parts_per_layer


def _check_layers(layers: Sequence[int], num_layers: int) -> None:
    outside = sorted({layer for layer in layers if not 0 <= layer < num_layers})
    if outside:
        raise ValueError(
            f"layers {outside} do not exist: this model has layers 0 to {num_layers - 1}."
        )
    if len(set(layers)) != len(layers):
        raise ValueError(f"layers {sorted(layers)} are not distinct.")
    if len(layers) == num_layers:
        raise ValueError(f"all {num_layers} layers would be removed: at least one must remain.")


def refuse_unverified(model_type: str) -> None:
    """Raise `UnsupportedArchitecture` unless this type of model has been verified."""
    if model_type in VERIFIED:
        return
    reason = (REFUSED | NOT_DECODERS).get(model_type)
    raise UnsupportedArchitecture(
        f"{model_type}: dropping layers has not been verified for this model type"
        + (f": {reason}" if reason else "")
        + ". docs/architectures.md lists the verified ones."
    )


def _set_layers(stack: DecoderStack, layers: list[Any]) -> None:
    del stack.layers[:]
    stack.layers.extend(layers)


def _set(settings: dict[str, Any], values: dict[str, Any]) -> None:
    """Set a configuration's fields; equal values stay the same objects, which may be shared."""
    for name in settings.keys() - values.keys():
        del settings[name]
    for name, value in values.items():
        if name not in settings or settings[name] != value:
            settings[name] = value
