"""Write docs/configuration.md: every key, from the dataclasses that define it.

    python tools/configuration.py

`make tables` runs this, and a test compares the page with its output.
"""

import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path

from layerprune.config.compose import compose, conf_dir
from layerprune.config.help import as_typed, first_paragraph, keys_of
from layerprune.config.registry import RECIPES, REGISTRIES
from layerprune.config.schema import Config

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

HEAD = """# Look up a key

After this page you know each key of the configuration, its type, its default and its effect.

    python main.py heal=NAME --help    # the same in the terminal, for one choice

- Set a key with `GROUP.KEY=VALUE`, and choose a file of `conf/GROUP` with `GROUP=NAME`. `--cfg job`
  prints the resulting configuration.
- A list is `[A,B]`, no value is `null`, and a size of memory is `500MB` or `2GiB`.
- The defaults below apply to a command without arguments. Other choices of a group set other
  values: see `GROUP=NAME --help`.
- `launcher=` and its keys are in [sweeps.md](sweeps.md), `experiment=` in
  [experiments](../experiments/README.md).

`make tables` writes this page from [schema.py](../layerprune/config/schema.py), and a test keeps it
current.
"""


def page() -> str:
    """Return the page."""
    config = compose()
    parts = [HEAD, *_section("", Config, config, config)]
    for field in dataclasses.fields(Config):
        if dataclasses.is_dataclass(kind := typing.get_type_hints(Config)[field.name]):
            parts += _section(field.name, kind, getattr(config, field.name), config)
    return "\n".join(parts) + "\n"


def _section(group: str, kind: type, value: object, config: Config) -> list[str]:
    """Return the section of a group: its description, its files, its keys."""
    assert kind.__doc__ is not None
    lines = [
        f"## {group or 'Top level'}",
        "",
        textwrap.fill(inspect.cleandoc(kind.__doc__), 100),
    ]
    choices = sorted(path.stem for path in conf_dir().glob(f"{group}/*.yaml")) if group else []
    kinds = [kind]
    for registry in (registry for registry in REGISTRIES if registry.group == group):
        classes = registry.choices()
        kinds += classes.values()
        lines += ["", f"| `{group}=` | meaning | source |", "|:--|:--|:--|"]
        lines += [
            f"| `{name}` | {_summary(classes[name])} | {registry.references[name]} |"
            for name in classes
        ]
        for name in sorted({*choices} - {*classes}):  # other values for one of these
            comment = (conf_dir() / group / f"{name}.yaml").read_text().partition("defaults:")[0]
            lines.append(f"| `{name}` | {' '.join(comment.replace('#', '').split())} | |")
    if len(choices) > 1 and len(kinds) == 1:
        names = ", ".join(f"`{name}`" for name in choices)
        lines += ["", textwrap.fill(f"`{group}=` {names}.", 100, break_on_hyphens=False)]
    lines += ["", "| key | type | default | meaning |", "|:--|:--|:--|:--|"]
    lines += [f"| {' | '.join(row)} |" for row in _merged(group, kinds, value, config)]
    if group == "heal":
        lines += ["", *_recipes()]
    return [*lines, ""]


def _merged(
    group: str, kinds: list[type], value: object, config: Config
) -> Iterator[tuple[str, ...]]:
    """Yield each key of several classes once, with all its meanings if they differ."""
    rows: dict[str, tuple[str, str, str, str]] = {}
    meanings: dict[str, dict[str, list[str]]] = {}
    for kind in kinds:
        for row in _rows(group, kind, value, config):
            rows.setdefault(row[0], row)
            meanings.setdefault(row[0], {}).setdefault(row[3], []).append(
                f"`{kind.__name__.lower()}`"
            )
    for key, row in rows.items():
        (text, *others) = texts = meanings[key]
        if others:
            text = " ".join(f"{', '.join(names)}: {text}" for text, names in texts.items())
        yield *row[:3], text


def _summary(kind: type) -> str:
    """Return the first paragraph of a docstring, as a cell of a table."""
    return _cell(first_paragraph(kind))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _rows(
    prefix: str, kind: type, value: object, config: Config
) -> Iterator[tuple[str, str, str, str]]:
    """Yield key, type, default and meaning of each field, nested dataclasses included."""
    for key in keys_of(prefix, kind, value, config):
        has_it = "." not in key.name or hasattr(value, key.name.split(".")[1])
        default = f"`{key.default}`" if key.default and has_it else ""
        yield f"`{key.name}`", key.type, default, _cell(key.text)


def _recipes() -> list[str]:
    """Return the table of each recipe's values."""
    given = {name: compose(f"heal={name}").heal for name in RECIPES.choices() if name != "none"}
    keys = dict.fromkeys(key for heal in given.values() for key in dataclasses.asdict(heal))
    lines = [
        "Values of each recipe for the default model. A recipe refuses keys that it does not have.",
        "",
        f"| | {' | '.join(f'`{name}`' for name in given)} |",
        f"|:--{'|:--' * len(given)}|",
    ]
    for key in list(keys)[1:]:
        cells = (
            as_typed(getattr(heal, key)) if hasattr(heal, key) else "" for heal in given.values()
        )
        lines.append(f"| `{key}` | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
