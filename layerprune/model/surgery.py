"""Taking layers out of a model, in place, so that everything that counts layers still agrees.

`layer` is an index in the original model; `slot` is an index after the cut.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from layerprune.model.on_the_spot import Trial
from layerprune.model.own_code import runs_own_code
from layerprune.model.rebuilt import check_rebuilt
from layerprune.model.refused import NOT_DECODERS, REFUSED
from layerprune.model.settings import cut_config
from layerprune.model.stack import (
    DecoderStack,
    UnsupportedArchitecture,
    decoder_stack,
    num_layers,
    text_config,
)
from layerprune.model.verified import VERIFIED

INDEX = ("layer_idx", "layer_id", "layer_number")
"""What parts of a layer call its index."""


def drop_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Take `layers` (0-based, in any order) out of a causal language model.

    Changes the model in place and returns it: the list of layers, the layer indices that the
    key-value cache uses, and the configuration's counts and per-layer lists, so that the model
    runs, generates, and can be saved and loaded by plain transformers. Weights are not touched.

    Raises `UnsupportedArchitecture` for a model type for which this has not been verified, for a
    cut that no configuration of its type can describe, and for a model with code of its own that
    does not run without `layers` as if they did nothing; `ValueError` for indices that the
    model does not have; the model is as it was then.
    """
    _cut_for_good(model, layers)
    return model


@contextmanager
def dropped(model: PreTrainedModel, layers: Sequence[int]) -> Iterator[PreTrainedModel]:
    """The model without `layers` inside the block, and as it was, to the bit, after it."""
    undo = _cut(model, layers)
    try:
        yield model
    finally:
        undo()


class Cut:
    """A model without some of its layers, which can be whole again for a while.

    The weights are there once: what is trained in the layers that stay is seen in both.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        """Drop `layers` as `drop_layers` does."""
        self.model = model
        self._layers = tuple(layers)
        self._undo = _cut_for_good(model, layers)

    @contextmanager
    def whole(self) -> Iterator[PreTrainedModel]:
        """The model with all of its layers inside the block."""
        self._undo()
        try:
            yield self.model
        finally:
            self._undo = _cut(self.model, self._layers, saved=True)


def _cut_for_good(model: PreTrainedModel, layers: Sequence[int]) -> Callable[[], None]:
    """Drop `layers`, unless what is left could not be saved; the model is as it was then."""
    undo = _cut(model, layers, saved=True)
    try:
        if layers:
            check_rebuilt(model, layers)
    except UnsupportedArchitecture:
        undo()
        raise
    return undo


def _cut(model: PreTrainedModel, layers: Sequence[int], saved: bool = False) -> Callable[[], None]:
    """Drop `layers`; returns the function that puts everything back."""
    if not layers:
        return lambda: None
    own_code = runs_own_code(model)
    if not own_code:
        refuse_unverified(model.config.model_type)
    stack = decoder_stack(model)
    gone = _checked(layers, len(stack.layers))
    original = list(stack.layers)
    kept = [layer for layer in range(len(original)) if layer not in gone]
    # Everything is known before anything is changed.
    configs = [(vars(config), vars(cut_config(config, kept, saved))) for config in _configs(model)]
    before = [dict(settings) for settings, _ in configs]
    indices = list(_indices(stack, kept))
    left = [original[layer] for layer in kept]
    trial = Trial(model, [original[layer] for layer in gone], left) if own_code else None

    for settings, after in configs:
        _set(settings, after)
    _set_layers(stack, left)
    for part, name, _, slot in indices:
        setattr(part, name, slot)

    def undo() -> None:
        for (settings, _), old in zip(configs, before, strict=True):
            _set(settings, old)
        _set_layers(stack, original)
        for part, name, layer, _ in indices:
            setattr(part, name, layer)

    if trial is not None:
        try:
            trial.check()
        except UnsupportedArchitecture:
            undo()
            raise
    return undo


def _configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Every object that describes the decoder: parts may hold copies."""
    config = text_config(model)
    count = num_layers(config)
    found = {id(config): config}
    for part in model.modules():
        own = getattr(part, "config", None)
        if type(own) is type(config) and num_layers(own) == count:
            found[id(own)] = own
    return list(found.values())


def _indices(stack: DecoderStack, kept: list[int]) -> Iterator[tuple[Any, str, int, int]]:
    """Parts that know their layer's index, under which name, and what it is before and after."""
    count = getattr(getattr(stack.decoder, "config", None), "num_hidden_layers", 0)
    # In some families a layer has several attentions, each with keys and values of its own.
    parts_a_layer = max(1, count // len(stack.layers))
    for slot, layer in enumerate(kept):
        for part in stack.layers[layer].modules():
            for name in INDEX:
                index = vars(part).get(name)
                if type(index) is not int:
                    continue
                if index == layer:
                    yield part, name, index, slot
                elif index // parts_a_layer == layer:
                    yield part, name, index, slot * parts_a_layer + index % parts_a_layer


def _checked(layers: Sequence[int], num_layers: int) -> set[int]:
    gone = set(layers)
    outside = sorted(layer for layer in gone if not 0 <= layer < num_layers)
    if outside:
        raise ValueError(
            f"layers {outside} do not exist: this model has layers 0 to {num_layers - 1}."
        )
    if len(gone) != len(layers):
        raise ValueError(f"layers {sorted(layers)} are not distinct.")
    if len(gone) == num_layers:
        raise ValueError(f"all {num_layers} layers would be dropped: at least one must stay.")
    return gone


def refuse_unverified(model_type: str) -> None:
    """Raise `UnsupportedArchitecture` unless layers of this type of model may be dropped."""
    if model_type in VERIFIED:
        return
    reason = (REFUSED | NOT_DECODERS).get(model_type)
    raise UnsupportedArchitecture(
        f"{model_type}: dropping layers has not been verified for this model type"
        + (f": {reason}" if reason else "")
        + ". docs/architectures.md lists those for which it has been."
    )


def _set_layers(stack: DecoderStack, layers: list[Any]) -> None:
    del stack.layers[:]
    stack.layers.extend(layers)


def _set(settings: dict[str, Any], values: dict[str, Any]) -> None:
    """Make a configuration's settings these, and keep what is equal, to share it as before."""
    for name in settings.keys() - values.keys():
        del settings[name]
    for name, value in values.items():
        if name not in settings or settings[name] != value:
            settings[name] = value
