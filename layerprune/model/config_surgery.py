"""Edit a configuration so that it describes a model without some of its layers.

Families are data here: which fields count layers, list one entry per layer, hold layer indices or a
threshold, or repeat a pattern. `layer` is an index before the cut, `slot` an index after it.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedConfig

from layerprune.model.stack import LAYER_COUNT_FIELDS, UnsupportedArchitecture, num_layers

GGUF_LEFTOVERS = ("_model_name_or_path", "unk_token_id")
"""Fields that a configuration read from a GGUF file has, and that few classes know."""

PER_LAYER_LISTS = (
    "attention_layers", "indexer_types", "layer_rope_theta", "layer_types", "layers_block_type",
    "mlp_layer_types", "no_rope_layers", "num_attention_heads_per_layer", "swiglu_limits",
    "swiglu_limits_shared",
)  # fmt: skip
"""Fields with one entry per layer, if they hold a list."""

DERIVED_LISTS = ("kv_sharing_modes", "layer_types", "layers_block_type")
"""Also one entry per layer, but computed from other fields in some classes, which then decide."""

LAYER_INDEX_LISTS = {
    "attn_layer_indices": 0,
    "full_attn_idxs": 0,
    "local_layer_ids": 0,
    "mlp_only_layers": 0,
    "moe_layers": 0,
    "ple_layer_ids": 1,
}
"""Fields that list layer indices, and the index of the first layer."""

LAYER_THRESHOLDS = ("first_k_dense_replace", "max_window_layers", "num_dense_layers")
"""Fields with a layer index: layers below it differ from the others."""

IGNORE_IS_DECODER = ("gpt_neox", "gpt_neox_japanese")
"""Types with a field `is_decoder` that are decoders regardless of its value."""

ATTENTION_FREE_KINDS = ("conv", "linear_attention", "mlp", "moe")
"""Kinds of layers without attention."""

MUST_BE_ZERO = {
    "hidden_size_per_layer_input": "gives each layer its own part of one embedding",
    "num_kv_shared_layers": "lets the last layers read the keys and values of others",
    "scale_attn_by_inverse_layer_idx": "divides attention by a layer's index",
}
"""Fields that tie layers to their positions unless they are zero, and their effect."""


def remove_unknown_fields(config: Any) -> None:
    """Delete the leftovers of GGUF that a configuration's class does not know."""
    for name in set(GGUF_LEFTOVERS) - {field.name for field in dataclasses.fields(config)}:
        vars(config).pop(name, None)


def cut_config(config: PreTrainedConfig, kept: Sequence[int], saved: bool) -> PreTrainedConfig:
    """Return a copy of a decoder's configuration that describes only the layers `kept`.

    Unless it will be `saved`, fields that are read only while a model is built are left as they
    are. Raises `UnsupportedArchitecture`, naming the field and layers, if no value fits.
    """
    count = num_layers(config)
    _refuse_ties(config)
    after: Any = copy.deepcopy(config)
    for name in LAYER_COUNT_FIELDS:
        if vars(config).get(name) == count:
            setattr(after, name, len(kept))
    for name in PER_LAYER_LISTS:
        values = vars(config).get(name)
        if isinstance(values, list | tuple):
            if len(values) != count:
                raise UnsupportedArchitecture(
                    f"{config.model_type}: {name} has {len(values)} entries for {count} layers."
                )
            setattr(after, name, [values[layer] for layer in kept])
    for name, first in LAYER_INDEX_LISTS.items():
        indices = vars(config).get(name)
        if indices is not None:
            slots = [slot + first for slot, layer in enumerate(kept) if layer + first in indices]
            setattr(after, name, slots)
    for name in LAYER_THRESHOLDS:
        threshold = vars(config).get(name)
        if threshold is not None:
            setattr(after, name, sum(layer < threshold for layer in kept))
    for rule in (*FORWARD_RULES, *(BUILD_RULES if saved else ())):
        rule(config, after, kept)
    _check_derived(config, after, kept)
    return after


def _refuse_ties(config: PreTrainedConfig) -> None:
    for name, effect in MUST_BE_ZERO.items():
        value = vars(config).get(name)
        if value:
            raise UnsupportedArchitecture(
                f"{config.model_type}: {name}={value} {effect}, which removing layers would change."
            )
    if vars(config).get("is_decoder") is False and config.model_type not in IGNORE_IS_DECODER:
        raise UnsupportedArchitecture(
            f"{config.model_type}: is_decoder=False makes it an encoder; only decoders are pruned."
        )


def _check_derived(config: PreTrainedConfig, after: PreTrainedConfig, kept: Sequence[int]) -> None:
    for name in DERIVED_LISTS:
        before = getattr(config, name, None)
        if before is None:
            continue
        expected, derived = [before[layer] for layer in kept], list(getattr(after, name))
        if derived != expected:
            layers = [layer for layer, a, b in zip(kept, expected, derived, strict=False) if a != b]
            raise UnsupportedArchitecture(
                f"{config.model_type}: no configuration gives layers {layers} their {name}."
            )


def _overrides(config: Any, after: Any, kept: Sequence[int]) -> None:
    """Renumber `per_layer_config`, the values that differ in some layers."""
    overrides = config.to_dict().get("per_layer_config") if config.is_heterogeneous else None
    if overrides is not None:
        by_layer = {int(layer): values for layer, values in overrides.items()}
        after.per_layer_config = {
            slot: by_layer[layer] for slot, layer in enumerate(kept) if layer in by_layer
        }


def _sparse_step(config: Any, after: Any, kept: Sequence[int]) -> None:
    """List all layers without experts: before, every `step`-th unlisted layer had experts."""
    step = vars(config).get("decoder_sparse_step")
    if step is not None:
        dense = config.mlp_only_layers or []
        after.mlp_only_layers = [
            slot for slot, layer in enumerate(kept) if layer in dense or (layer + 1) % step
        ]
        after.decoder_sparse_step = 1


def _moe_interval(config: Any, after: Any, kept: Sequence[int]) -> None:
    """Find the start, end and interval that give experts to the same layers."""
    interval = vars(config).get("moe_layer_interval")
    if interval is None:
        return
    first, last = config.moe_layer_start_index, config.moe_layer_end_index
    sparse = [
        slot
        for slot, layer in enumerate(kept)
        if first <= layer <= last and (layer + 1) % interval == 0
    ]
    start, end = (sparse[0], sparse[-1]) if sparse else (len(kept), len(kept))
    for step in range(1, len(kept) + 1):
        if not sparse or sparse == [n for n in range(start, end + 1) if (n + 1) % step == 0]:
            after.moe_layer_interval = step
            after.moe_layer_start_index, after.moe_layer_end_index = start, end
            return
    raise UnsupportedArchitecture(
        f"{config.model_type}: moe_layer_interval cannot give experts to exactly the layers "
        f"{[kept[slot] for slot in sparse]} among the remaining ones."
    )


def _period(kind: str, config: Any, after: Any, kept: Sequence[int]) -> None:
    """Find the period and offset that single out the same layers: index % period == offset."""
    period_name, offset_name = f"{kind}_layer_period", f"{kind}_layer_offset"
    period, offset = vars(config).get(period_name), vars(config).get(offset_name)
    if period is None:
        return
    slots = [slot for slot, layer in enumerate(kept) if layer % period == offset]
    # A period beyond the last layer singles out one layer, or none.
    for new_period in (period, *range(1, len(kept) + 2)):
        for new_offset in range(new_period):
            if list(range(new_offset, len(kept), new_period)) == slots:
                setattr(after, period_name, new_period)
                setattr(after, offset_name, new_offset)
                return
    raise UnsupportedArchitecture(
        f"{config.model_type}: {period_name} cannot describe layers "
        f"{[kept[slot] for slot in slots]} among the remaining ones."
    )


def _repeated(config: Any, after: Any, kept: Sequence[int]) -> None:
    """Spell out patterns of layer kinds that repeat."""
    if "block_types" in vars(config):
        kinds = config.block_types
        after.block_types = [kinds[layer % len(kinds)] for layer in kept]
    if "attention_types" in vars(config):
        after.attention_types = [[[config.attention_layers[layer]], 1] for layer in kept]


def _depth_scale(config: Any, after: Any, kept: Sequence[int]) -> None:
    """Keep the residual scale, scale_depth / sqrt(number of layers)."""
    scale = vars(config).get("scale_depth")
    if scale is not None:
        after.scale_depth = scale * math.sqrt(len(kept) / num_layers(config))


def _shared_choices(config: Any, _after: Any, kept: Sequence[int]) -> None:
    """Refuse to remove a layer that chooses the tokens which a remaining layer attends to."""
    kinds = vars(config).get("indexer_types")
    for layer in kept if kinds else ():
        source = layer
        while kinds[source] == "shared":
            source -= 1
        if source not in kept:
            raise UnsupportedArchitecture(
                f"{config.model_type}: by indexer_types, layer {layer} attends to the tokens that "
                f"layer {source} chooses, which would be removed."
            )


def _some_attention(config: Any, after: Any, _kept: Sequence[int]) -> None:
    """Keep an attention layer in a hybrid model: its cache counts tokens there."""
    before, remaining = getattr(config, "layer_types", None), getattr(after, "layer_types", None)
    layers = _attention_layers(before or ())
    if layers and remaining and not _attention_layers(remaining):
        raise UnsupportedArchitecture(
            f"{config.model_type}: by layer_types, no layer with attention would remain of layers "
            f"{layers}."
        )


def _attention_layers(kinds: Sequence[str]) -> list[int]:
    return [layer for layer, kind in enumerate(kinds) if kind not in ATTENTION_FREE_KINDS]


Rule = Callable[[Any, Any, Sequence[int]], None]
FORWARD_RULES: tuple[Rule, ...] = (_overrides, partial(_period, "attn"), _repeated, _shared_choices)
"""For fields that are read while a model runs."""

BUILD_RULES: tuple[Rule, ...] = (
    _sparse_step,
    _moe_interval,
    partial(_period, "expert"),
    _depth_scale,
    _some_attention,
)
"""For fields that are read only while a model is built."""
