"""Taking layers out of a model, in place, so that everything that counts layers still agrees.

`layer` is an index in the original model; `slot` is an index after the cut.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from layerprune.model.stack import DecoderStack, UnsupportedArchitecture, decoder_stack

VERIFIED = frozenset({
    "cohere2", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama",
    "mistral", "mixtral", "olmo2", "olmo3", "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3",
    "starcoder2",
})  # fmt: skip
"""Model types that the tests hold against the same model with its layers made the identity, with
and without the cache, and after saving and loading. Any other type is refused."""

PER_LAYER_LISTS = ("layer_types", "mlp_layer_types", "no_rope_layers")
"""Configuration fields with one entry a layer."""

LAYER_THRESHOLDS = ("max_window_layers",)
"""Configuration fields that hold a layer's index: layers below it differ from the others."""


def drop_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Take `layers` (0-based, in any order) out of a causal language model.

    Changes the model in place and returns it: the list of layers, the layer indices that the
    key-value cache uses, and the configuration's counts and per-layer lists, so that the model
    runs, generates, and can be saved and loaded by plain transformers. Weights are not touched.

    Raises `UnsupportedArchitecture`, before anything is changed, for a model type for which this
    has not been verified, and `ValueError` for indices that the model does not have.
    """
    _cut(model, layers)
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
        self._undo = _cut(model, layers)

    @contextmanager
    def whole(self) -> Iterator[PreTrainedModel]:
        """The model with all of its layers inside the block."""
        self._undo()
        try:
            yield self.model
        finally:
            self._undo = _cut(self.model, self._layers)


def _cut(model: PreTrainedModel, layers: Sequence[int]) -> Callable[[], None]:
    """Drop `layers`; returns the function that puts everything back."""
    stack = decoder_stack(model)
    gone = _checked(layers, len(stack.layers))
    if not gone:
        return lambda: None
    refuse_unverified(model.config.model_type)
    config = model.config.get_text_config(decoder=True)
    _refuse_index_in_the_maths(config)

    original = list(stack.layers)
    kept = [layer for layer in range(len(original)) if layer not in gone]
    settings = _cut_settings(config, kept)
    settings_before = {name: getattr(config, name) for name in settings}

    _set_layers(stack, [original[layer] for layer in kept])
    _set_config(config, settings)

    def undo() -> None:
        _set_layers(stack, original)
        _set_config(config, settings_before)

    return undo


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
    if model_type not in VERIFIED:
        raise UnsupportedArchitecture(
            f"{model_type}: dropping layers has not been verified for this model type. "
            f"Verified: {', '.join(sorted(VERIFIED))}."
        )


def _refuse_index_in_the_maths(config: PreTrainedConfig) -> None:
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise UnsupportedArchitecture(
            f"{config.model_type}: scale_attn_by_inverse_layer_idx divides attention by a layer's "
            "index, which a cut would change."
        )


def _cut_settings(config: PreTrainedConfig, kept: list[int]) -> dict[str, Any]:
    """What the configuration must say once only `kept` layers are there."""
    settings: dict[str, Any] = {"num_hidden_layers": len(kept)}
    for name in PER_LAYER_LISTS:
        values = getattr(config, name, None)
        if values is not None:
            settings[name] = [values[layer] for layer in kept]
    for name in LAYER_THRESHOLDS:
        threshold = getattr(config, name, None)
        if threshold is not None:
            settings[name] = sum(layer < threshold for layer in kept)
    return settings


def _set_layers(stack: DecoderStack, layers: list[Any]) -> None:
    """Make `layers` the stack, and number every part that keeps its layer's index by its slot."""
    del stack.layers[:]
    stack.layers.extend(layers)
    for slot, layer in enumerate(layers):
        for part in layer.modules():
            if isinstance(getattr(part, "layer_idx", None), int):
                part.layer_idx = slot


def _set_config(config: PreTrainedConfig, settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        setattr(config, name, value)
