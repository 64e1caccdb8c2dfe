"""Overrides as people type them: a model by its path, one value where a list is expected."""

import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType

from layerprune.config.registry import REGISTRIES
from layerprune.runtime.progress import say_once

LISTS = (
    "data.files", "eval.tasks", "heal.targets", "model.healing.targets", "model.parts",
    "prune.layers",
)  # fmt: skip
"""Keys whose value is a list; a single value is a list of one."""

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HOME = re.compile(r"""(?<=[=\[,"'])~(?=/|$)""")
"""A user's folder, where a value begins."""

PATH_STARTS = ("/", "./", "../", "~", "package:")


def expand(overrides: Iterable[str], models: Collection[str]) -> list[str]:
    """Return overrides that Hydra understands; `models` are the choices of `model=`."""
    parser = OverridesParser.create()
    parsed = parser.parse_overrides([expand_home(override) for override in overrides])
    return [text for override in parsed for text in _expand(override, models)]


def expand_home(override: str) -> str:
    """Return an override with `~/` replaced where a value begins: Hydra's grammar has no `~`."""
    return HOME.sub(lambda _: str(Path.home()), override)


def _expand(override: Override, models: Collection[str]) -> Iterator[str]:
    text = str(override.input_line)
    changes = override.type is OverrideType.CHANGE and override.package is None
    if changes and not override.is_sweep_override():
        key, value = override.key_or_group, override.value()
        given = text.partition("=")[2]
        if key == "model" and isinstance(value, str) and value not in models and is_path(value):
            yield "model=custom"
            yield f"model.path={given}"
            return
        for registry in REGISTRIES:
            names_choice = key == f"{registry.group}.{registry.key}" and isinstance(value, str)
            if names_choice and value in registry.choices():
                say_once(f"{text}: use {registry.group}={value}, which also reads its YAML file.")
        if key in LISTS and isinstance(value, str | int) and "${" not in given:
            yield f"{key}=[{given}]"
            return
    yield text


def is_path(model: str) -> bool:
    """Return True if a name is a hub id, a file or a folder, or looks like one."""
    looks_like_one = model.startswith(PATH_STARTS) or HUB_ID.fullmatch(model) is not None
    return looks_like_one or os.path.exists(model)  # Path.exists raises for some names
