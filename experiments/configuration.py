"""Writes docs/configuration.md: every key, from the dataclasses that hold it.

    python experiments/configuration.py

`make tables` does it, and a test holds the page true.
"""

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from layerprune.config.compose import compose, conf_dir
from layerprune.config.schema import HEAL_KEYS, Config

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

HEAD = """# Every key

Written by `make tables` from [layerprune/config/schema](../layerprune/config/schema); a test keeps
it true. Give a key as `GROUP.KEY=VALUE`, and a file of `conf/GROUP` as `GROUP=NAME`; `--help`
prints what both come to. The defaults are those of a command without arguments;
other choices of a group set other values, which `--help` shows with them. A list is `[A,B]`,
nothing is `null`, and a size of memory is `500MB` or `2GiB`. `launcher=` and its keys are in
[sweeps.md](sweeps.md), `experiment=` in [experiments](../experiments/README.md).
"""


def page() -> str:
    """The whole page."""
    config = compose()
    parts = [HEAD, *_section("", Config, config)]
    for field in dataclasses.fields(Config):
        if dataclasses.is_dataclass(kind := typing.get_type_hints(Config)[field.name]):
            parts += _section(field.name, kind, getattr(config, field.name))
    return "\n".join(parts) + "\n"


def _section(group: str, kind: type, value: object) -> list[str]:
    """One group: what it is, its files, its keys."""
    assert kind.__doc__ is not None
    lines = [
        f"## {group or 'Of the whole'}",
        "",
        textwrap.fill(inspect.cleandoc(kind.__doc__), 100),
    ]
    choices = sorted(path.stem for path in conf_dir().glob(f"{group}/*.yaml")) if group else []
    if len(choices) > 1:
        names = ", ".join(f"`{name}`" for name in choices)
        lines += ["", textwrap.fill(f"`{group}=` {names}.", 100, break_on_hyphens=False)]
    lines += ["", "| key | is | default | |", "|:--|:--|:--|:--|"]
    lines += [f"| {' | '.join(row)} |" for row in _rows(group, kind, value)]
    if group == "heal":
        lines += ["", *_recipes()]
    return [*lines, ""]


def _rows(prefix: str, kind: type, value: object) -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and meaning of each field, those of dataclasses within after it."""
    lines = said(kind)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        key = f"{prefix}.{field.name}" if prefix else field.name
        (hint, *_) = [each for each in _alternatives(hints[field.name]) if each is not type(None)]
        if dataclasses.is_dataclass(hint):
            if prefix:
                within = getattr(value, field.name)
                yield f"`{key}`", "", "" if within else "`null`", lines.get(field.name, "")
                yield from _rows(key, hint, within)
            continue
        default = "" if value is None else f"`{_shown(getattr(value, field.name))}`"
        yield f"`{key}`", _type(hint), default, lines.get(field.name, "")


def _recipes() -> list[str]:
    """What each recipe is given."""
    given = {name: compose(f"heal={name}").heal for name in HEAL_KEYS if HEAL_KEYS[name]}
    keys = [field.name for field in dataclasses.fields(next(iter(given.values())))][1:]
    lines = [
        "What recipes are given for the default model; keys that one does not read are refused.",
        "",
        f"| | {' | '.join(f'`{name}`' for name in given)} |",
        f"|:--{'|:--' * len(given)}|",
    ]
    for key in keys:
        cells = [
            _shown(getattr(heal, key)) if key in HEAL_KEYS[name] else ""
            for name, heal in given.items()
        ]
        lines.append(f"| `{key}` | {' | '.join(cells)} |")
    return lines


def said(kind: type) -> dict[str, str]:
    """The line under each field, as it is written in the source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match after:
                case ast.Expr(ast.Constant(str(text))):
                    found[field.target.id] = " ".join(text.split()).replace("|", "\\|")
    return found


def _alternatives(hint: object) -> tuple[object, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _type(hint: object) -> str:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(f"`{each.value}`" for each in hint)
    names = {
        bool: "true or false", int: "whole number", float: "number", str: "text",
        list[str]: "list of texts", list[int]: "list of whole numbers",
        dict[str, int]: "whole number for each name", typing.Any: "number, or list of numbers",
    }  # fmt: skip
    return names[hint]


def _shown(value: object) -> str:
    """A value as it stands on the command line."""
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
