"""Write a pruned model's configuration files: the source's own, changed only where the cut does.

transformers writes its newest form (`rope_parameters` for `rope_theta`), which older versions, and
the programs built on them, misread without an error.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from layerprune.model.source import Source
from layerprune.model.stack import text_config
from layerprune.runtime.atomic_files import write_json

NOT_COPIED = ("_name_or_path", "auto_map")
"""Fields that hold for the source's folder alone: its path, and code that lies in it."""

UNCOMPARED = ("architectures", "dtype", "quantization_config", "transformers_version", *NOT_COPIED)


def untie(model: PreTrainedModel) -> None:
    """Say in the configuration that the head has its own weights.

    transformers keeps a head that differs from the embeddings; other programs trust the flag.
    """
    for config in (model.config, text_config(model)):
        if getattr(config, "tie_word_embeddings", False):
            config.tie_word_embeddings = False


def write_config(source: Source, model: PreTrainedModel, folder: Path) -> None:
    """Write `config.json` and `generation_config.json` of a pruned model into `folder`."""
    config: Any = model.config
    content = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
    _update(content, _fields(type(config).from_pretrained(source.folder)), _fields(config), config)
    for name in NOT_COPIED:
        content.pop(name, None)
    content["architectures"] = [type(model).__name__]
    if not source.quantized_by:
        content.setdefault("dtype" if "torch_dtype" not in content else "torch_dtype", "")
        _set_dtype(content, str(model.dtype).removeprefix("torch."))
    write_json(folder / "config.json", content)
    if _fields(type(config).from_pretrained(folder)) != _fields(config):
        config.architectures, config.dtype = content["architectures"], model.dtype
        config.save_pretrained(folder)
    if (source.folder / "generation_config.json").is_file():
        shutil.copyfile(source.folder / "generation_config.json", folder / "generation_config.json")
    elif model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


def _fields(config: Any) -> dict[str, Any]:
    fields = json.loads(config.to_json_string(use_diff=False))
    return {name: value for name, value in fields.items() if name not in UNCOMPARED}


def _update(
    own: dict[str, Any], before: dict[str, Any], after: dict[str, Any], config: Any
) -> None:
    """Set the fields of `own` that differ in `before` and `after`, by the names that it has."""
    aliases = {name: alias for alias, name in getattr(config, "attribute_map", {}).items()}
    for name, value in after.items():
        if before.get(name) == value:
            continue
        key = aliases[name] if name not in own and aliases.get(name) in own else name
        if isinstance(value, dict) and isinstance(own.get(key), dict):
            _update(own[key], before.get(name) or {}, value, getattr(config, name, None))
        else:
            own[key] = value


def _set_dtype(content: dict[str, Any], dtype: str) -> None:
    for name, value in content.items():
        if name in ("dtype", "torch_dtype"):
            content[name] = dtype
        elif isinstance(value, dict):
            _set_dtype(value, dtype)
