"""`--help`: the choices of each group, and the keys of one group with their descriptions."""

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import reduce
from pathlib import Path

from layerprune.config.compose import compose, conf_dir
from layerprune.config.registry import REGISTRIES
from layerprune.config.schema import Config
from layerprune.errors import UserError

WIDTH = 100

EXAMPLES = (
    ("prune.fraction=0.25", "one point"),
    ("'prune.fraction=[0,0.1,0.2,0.3]'", "a curve"),
    ("-m heal=none,lora prune.layers_dropped=8", "a sweep: before and after healing"),
    ("experiment=demo", "a preset"),
    ("model=HUB_ID_OR_FOLDER eval=boolq", "any other model"),
    ("heal=lora --help", "the keys of a choice, or --help GROUP"),
)

REQUIRED = "required"
NEEDS = {"model=custom": "model.path", "data=files": "data.files"}
"""Choices that need another key, which has no default."""

OTHER_GROUPS = {
    "experiment": "A preset: a figure of the paper, or another study.",
    "launcher": "Where the jobs of a sweep run.",
}
"""Groups of `conf/` that are no part of a job's configuration."""


class Key(typing.NamedTuple):
    """A key of the configuration, as GROUP.NAME, with its description."""

    name: str
    type: str
    default: str
    text: str


def show_help(program: str, arguments: Sequence[str]) -> str:
    """Return what `--help` prints beside these arguments: an overview, or the keys of a group."""
    overrides = [argument for argument in arguments if "=" in argument]
    groups = [argument for argument in arguments if argument in _groups()]
    for name in arguments:
        if not (name.startswith("-") or name in overrides or name in groups):
            raise UserError(f"--help {name}: choose one of {', '.join(_groups())}.")
    chosen = dict(override.split("=", 1) for override in overrides)
    groups += [group for group in chosen if group in _groups() and group not in groups]
    if not groups:
        return _overview(program)
    given = {override.partition("=")[0] for override in overrides}
    needed = (NEEDS[choice] for choice in overrides if choice in NEEDS)
    config = compose(*overrides, *(f"{key}={REQUIRED}" for key in needed if key not in given))
    return "\n\n".join(_group_help(group, config, group in chosen) for group in groups)


def _groups() -> dict[str, str]:
    """Return each group and a line that describes it."""
    hints = typing.get_type_hints(Config)
    sections = {
        field.name: first_paragraph(hints[field.name])
        for field in dataclasses.fields(Config)
        if dataclasses.is_dataclass(hints[field.name])
    }
    return {**sections, **OTHER_GROUPS}


def _overview(program: str) -> str:
    width = max(len(example) for example, _ in EXAMPLES)
    lines = [
        "layerprune: how many layers of a language model can be removed, and what does it cost?",
        f"Usage: {program} [-m] [GROUP=CHOICE ...] [GROUP.KEY=VALUE ...]",
        *(f"  {program} {example:{width}}  # {text}" for example, text in EXAMPLES),
    ]
    for group, text in _groups().items():
        lines += _indented(f"{group}: {text}", ", ".join(_choices(group)))
    return "\n".join(lines)


def _group_help(group: str, config: Config, chosen: bool) -> str:
    """Return the choices of a group and its keys; of a chosen one, the keys that it has."""
    lines = [f"{group}: {_groups()[group]}"]
    if not chosen:
        for name, text in _choices(group).items():
            lines += _indented(f"{group}={name}", text)
    if group in OTHER_GROUPS:
        return "\n".join(lines)
    value = getattr(config, group)
    kinds = {type(value)}
    if not chosen:
        for registry in REGISTRIES:
            if registry.group == group:
                kinds |= set(registry.choices().values())
    keys: dict[str, Key] = {}
    for kind in sorted(kinds, key=lambda kind: kind.__name__):
        for key in keys_of(group, kind, value, config):
            same = keys.setdefault(key.name, key).default == key.default
            keys[key.name] = key if same else key._replace(default="")
    for key in keys.values():
        default = f", {key.default} by default" if key.default else ""
        if REQUIRED in key.default:
            default = f", {REQUIRED}"
        lines += _indented(f"{key.name}: {key.type.replace('`', '')}{default}", key.text)
    return "\n".join(lines)


def _indented(head: str, text: str) -> list[str]:
    return [head, *textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ")]


def _choices(group: str) -> dict[str, str]:
    """Return the YAML files of a group by name, and the comment at the top of each."""
    return {
        path.stem: _comment(path)
        for path in sorted(conf_dir().glob(f"{group}/*.yaml"))
        if group != "runtime"  # has no choice
    }


def _comment(path: Path) -> str:
    """Return the first sentences of a YAML file; the question, of an experiment."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.startswith("# Source:"):
            break
        if not line.startswith("# @package"):
            lines.append(line.strip("# ").removeprefix("Question:").strip())
    return " ".join(lines)


def first_paragraph(kind: type) -> str:
    """Return the first paragraph of a class's docstring, on one line."""
    return " ".join(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].split())


def keys_of(prefix: str, kind: type, value: object, config: Config) -> Iterator[Key]:
    """Yield each key of a class, each followed by the keys of a dataclass within it.

    Defaults are from `value`, or from `kind` if `value` is of another class.
    """
    texts = descriptions(kind)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = f"{prefix}.{field.name}" if prefix else field.name
        hint = _without_none(hints[field.name])
        default = getattr(value, field.name, field.default)
        if isinstance(default, str) and default.startswith("${"):
            path = default[2:-1]
            default = "" if ":" in path else reduce(getattr, path.split("."), config)
        if dataclasses.is_dataclass(hint):
            if prefix:
                yield Key(name, "", "" if default else "null", texts.get(field.name, ""))
                yield from keys_of(name, typing.cast(type, hint), default, config)
            continue
        known = default not in (dataclasses.MISSING, "???")
        shown = as_typed(default) if known else ""
        yield Key(name, _type_name(hint), shown, texts.get(field.name, ""))


def descriptions(kind: type) -> dict[str, str]:
    """Return the text under each field of a dataclass, as the source has it."""
    bases = [base for base in kind.__bases__ if dataclasses.is_dataclass(base)]
    found = {key: text for base in bases for key, text in descriptions(base).items()}
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    for field, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match after:
                case ast.Expr(ast.Constant(str(text))):
                    found[field.target.id] = " ".join(text.split())
    return found


def _without_none(hint: object) -> object:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next(option for option in options if option is not type(None))


def _type_name(hint: object) -> str:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(f"`{member.value}`" for member in hint)
    names: dict[object, str] = {
        bool: "true or false", int: "whole number", float: "number", str: "text",
        list[str]: "list of texts", list[int]: "list of whole numbers",
        dict[str, int]: "whole number for each name", typing.Any: "number, or list of numbers",
    }  # fmt: skip
    return names[hint]


def as_typed(value: object) -> str:
    """Return a value as one types it on the command line."""
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
