"""What a configuration says of single layers, and what it must say once some of them are gone.

Families are data here: which fields count layers, list one entry a layer, hold layers' indices or
a threshold, or repeat a pattern. `layer` is an index before the cut, `slot` one after it.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedConfig

from layerprune.model.stack import COUNTS, UnsupportedArchitecture, num_layers

UNKNOWN = ("_model_name_or_path", "unk_token_id")
"""What a configuration that was read from a GGUF file says, and few of its classes know."""

LISTS = (
    "attention_layers",
    "indexer_types",
    "layer_rope_theta",
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "no_rope_layers",
    "num_attention_heads_per_layer",
    "swiglu_limits",
    "swiglu_limits_shared",
)
"""Fields with one entry a layer, where they hold a list."""

DERIVED = ("kv_sharing_modes", "layer_types", "layers_block_type")
"""One entry a layer, too, but in some classes computed from other fields, which decide then."""

INDICES = {
    "attn_layer_indices": 0,
    "full_attn_idxs": 0,
    "local_layer_ids": 0,
    "mlp_only_layers": 0,
    "moe_layers": 0,
    "ple_layer_ids": 1,
}
"""Fields with indices of layers, and what the first layer's index is."""

THRESHOLDS = (
    "first_k_dense_replace",
    "max_window_layers",
    "num_dense_layers",
)
"""Fields with the index of a layer: layers below it differ from the others."""

NOT_READ = ("gpt_neox", "gpt_neox_japanese")
"""Types that have a field `is_decoder` and decode whatever it says."""

RECURRENT = ("conv", "linear_attention", "mlp", "moe")
"""Kinds of layers without attention."""

ZERO = {
    "hidden_size_per_layer_input": "gives each layer its own part of one embedding",
    "num_kv_shared_layers": "lets the last layers read the keys and values of others",
    "scale_attn_by_inverse_layer_idx": "divides attention by a layer's index",
}
"""Fields that tie layers to their places unless they are zero, and what they do."""


def forget_unknown(config: Any) -> None:
    """Take out of a configuration what its class does not know, before it is saved."""
    known = {field.name for field in dataclasses.fields(config)}
    for name in set(UNKNOWN) - known:
        vars(config).pop(name, None)


def cut_config(config: PreTrainedConfig, kept: Sequence[int], saved: bool) -> PreTrainedConfig:
    """A copy of a decoder's configuration that describes the layers `kept` and no others.

    Unless it is `saved`, only what is read while a model runs matters: what is read while it is
    built may stay as it is. Raises `UnsupportedArchitecture`, naming the field and layers, where
    it cannot.
    """
    count = num_layers(config)
    _refuse_ties(config)
    after: Any = copy.deepcopy(config)
    for name in COUNTS:
        if vars(config).get(name) == count:
            setattr(after, name, len(kept))
    for name in LISTS:
        values = vars(config).get(name)
        if isinstance(values, list | tuple):
            if len(values) != count:
                raise UnsupportedArchitecture(
                    f"{config.model_type}: {name} has {len(values)} entries for {count} layers."
                )
            setattr(after, name, [values[layer] for layer in kept])
    for name, first in INDICES.items():
        layers = vars(config).get(name)
        if layers is not None:
            setattr(
                after, name, [slot + first for slot, at in enumerate(kept) if at + first in layers]
            )
    for name in THRESHOLDS:
        threshold = vars(config).get(name)
        if threshold is not None:
            setattr(after, name, sum(layer < threshold for layer in kept))
    for rule in (*RULES, *(SAVED if saved else ())):
        rule(config, after, kept)
    _check_derived(config, after, kept)
    return after


def _refuse_ties(config: PreTrainedConfig) -> None:
    for name, what in ZERO.items():
        value = vars(config).get(name)
        if value:
            raise UnsupportedArchitecture(
                f"{config.model_type}: {name}={value} {what}, which a cut would change."
            )
    if vars(config).get("is_decoder") is False and config.model_type not in NOT_READ:
        raise UnsupportedArchitecture(
            f"{config.model_type}: is_decoder=False makes it an encoder, whose tokens see all "
            "others; only decoders are cut."
        )


def _check_derived(config: PreTrainedConfig, after: PreTrainedConfig, kept: Sequence[int]) -> None:
    for name in DERIVED:
        before = getattr(config, name, None)
        if before is None:
            continue
        wanted, got = [before[layer] for layer in kept], list(getattr(after, name))
        if got != wanted:
            layers = [layer for layer, a, b in zip(kept, wanted, got, strict=False) if a != b]
            raise UnsupportedArchitecture(
                f"{config.model_type}: no setting gives layers {layers} the {name} that they have."
            )


def _overrides(config: Any, after: Any, kept: Sequence[int]) -> None:
    """Fields whose value differs in some layers."""
    overrides = config.to_dict().get("per_layer_config") if config.is_heterogeneous else None
    if overrides is not None:
        of_layer = {int(layer): values for layer, values in overrides.items()}
        after.per_layer_config = {
            slot: of_layer[layer] for slot, layer in enumerate(kept) if layer in of_layer
        }


def _sparse_step(config: Any, after: Any, kept: Sequence[int]) -> None:
    """Every so many layers has experts, but for those that are listed: list all that have none."""
    step = vars(config).get("decoder_sparse_step")
    if step is not None:
        dense = config.mlp_only_layers or []
        after.mlp_only_layers = [
            slot for slot, layer in enumerate(kept) if layer in dense or (layer + 1) % step
        ]
        after.decoder_sparse_step = 1


def _moe_interval(config: Any, after: Any, kept: Sequence[int]) -> None:
    """Between two layers, both included, every so many has experts."""
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
    for after.moe_layer_interval in range(1, len(kept) + 1):
        if (
            sparse
            == [
                slot for slot in range(start, end + 1) if (slot + 1) % after.moe_layer_interval == 0
            ]
            or not sparse
        ):
            after.moe_layer_start_index, after.moe_layer_end_index = start, end
            return
    raise UnsupportedArchitecture(
        f"{config.model_type}: moe_layer_interval cannot give experts to layers "
        f"{[kept[slot] for slot in sparse]} of those that stay, and to no others."
    )


def _attention_period(config: Any, after: Any, kept: Sequence[int]) -> None:
    _period(config, after, kept, "attn_layer_period", "attn_layer_offset")


def _expert_period(config: Any, after: Any, kept: Sequence[int]) -> None:
    _period(config, after, kept, "expert_layer_period", "expert_layer_offset")


def _period(
    config: Any, after: Any, kept: Sequence[int], period_name: str, offset_name: str
) -> None:
    """Layers differ from the others whose index leaves the offset as remainder."""
    period, offset = vars(config).get(period_name), vars(config).get(offset_name)
    if period is None:
        return
    wanted = [slot for slot, layer in enumerate(kept) if layer % period == offset]
    # A period that ends after the last layer can stand for one layer, or for none.
    possible = (
        (some, at)
        for some in (period, *range(1, len(kept) + 2))
        for at in range(some)
        if list(range(at, len(kept), some)) == wanted
    )
    found = next(possible, None)
    if found is None:
        raise UnsupportedArchitecture(
            f"{config.model_type}: {period_name} cannot describe layers "
            f"{[kept[slot] for slot in wanted]} among those that stay."
        )
    setattr(after, period_name, found[0])
    setattr(after, offset_name, found[1])


def _repeated(config: Any, after: Any, kept: Sequence[int]) -> None:
    """Kinds of layers that are given for the first ones and repeat."""
    if "block_types" in vars(config):
        kinds = config.block_types
        after.block_types = [kinds[layer % len(kinds)] for layer in kept]
    if "attention_types" in vars(config):
        after.attention_types = [[[config.attention_layers[layer]], 1] for layer in kept]


def _depth_scale(config: Any, after: Any, kept: Sequence[int]) -> None:
    """Residuals are multiplied by this over the square root of the number of layers."""
    scale = vars(config).get("scale_depth")
    if scale is not None:
        after.scale_depth = scale * math.sqrt(len(kept) / num_layers(config))


def _shared_choices(config: Any, _after: Any, kept: Sequence[int]) -> None:
    """Layers that attend to the tokens that a layer below them has chosen."""
    kinds = vars(config).get("indexer_types")
    for layer in kept if kinds else ():
        source = layer
        while kinds[source] == "shared":
            source -= 1
        if source not in kept:
            raise UnsupportedArchitecture(
                f"{config.model_type}: by indexer_types, layer {layer} attends to the tokens that "
                f"layer {source} chooses, which would be gone."
            )


def _some_attention(config: Any, after: Any, _kept: Sequence[int]) -> None:
    """Caches count tokens in attention layers: among recurrent ones there has to be one."""
    before, left = getattr(config, "layer_types", None), getattr(after, "layer_types", None)
    if before and left and _has_attention(before) and not _has_attention(left):
        raise UnsupportedArchitecture(
            f"{config.model_type}: by layer_types, no layer with attention would stay of layers "
            f"{[layer for layer, kind in enumerate(before) if kind not in RECURRENT]}."
        )


def _has_attention(kinds: Sequence[str]) -> bool:
    return any(kind not in RECURRENT for kind in kinds)


Rule = Callable[[Any, Any, Sequence[int]], None]
RULES: tuple[Rule, ...] = (
    _overrides,
    _attention_period,
    _repeated,
    _shared_choices,
)
"""What is read while a model runs."""

SAVED: tuple[Rule, ...] = (
    _sparse_step,
    _moe_interval,
    _expert_period,
    _depth_scale,
    _some_attention,
)
"""What is read only while a model is built."""
