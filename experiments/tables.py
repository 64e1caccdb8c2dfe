"""Writes pages from `conf/`: the index of presets, and the tables of the paper's appendix A.1.

    python experiments/tables.py

`make tables` does it, and gives each lab note that `make notes` wrote the head that its preset has;
a test holds all of them true.
"""

import re
import textwrap
from pathlib import Path

from layerprune.config.compose import compose, conf_dir
from layerprune.config.schema import Config

ROOT = Path(__file__).resolve().parent.parent

INDEX = ROOT / "experiments" / "README.md"
MODELS = ROOT / "docs" / "paper_models.md"

PAPER = "_paper"
"""How the names of presets in the paper's size end."""

BY_HAND = {
    "demo": "demo",
    "demo_healed": "demo",
    "eval_text": "eval_text",
    "fit": "fit",
    "predictor": "predictor",
    "quantisation": "quantisation",
    "recipes": "healing",
}
"""Presets whose notes are written by hand, and what these are called."""

BEGIN = "<!-- written by make notes -->"
"""After the head of a note."""

THUMBNAIL = 160
"""Pixels, the width of a note's first figure in the index."""

INDEX_HEAD = """# Presets

Written by `make tables` from the first lines of each preset in
[conf/experiment](../conf/experiment); a test keeps it true.

    python main.py experiment=NAME                  the embedded model and text, on two CPU cores
    python main.py experiment=NAME_paper            the size of the paper: GPUs and the hub
    python main.py experiment=NAME dry_run=true     what is done, and what the rest will take
    make experiments                                all of the first kind, two at a time

A preset that is stopped goes on where it was. `fig1`, `fig2`, `fig3`, `fig5` and `fig8` are views
of points in one study, `mini`, and `fig1_paper` to `fig3_paper`, `fig5_paper` and `fig6_paper` of
those in `paper`: what one has made, no other makes again. Behind each picture is a lab note: what
was expected, what came out, and what that says; `make notes` writes figures and numbers into it.
The tables of the paper's appendix are in [docs/paper_models.md](../docs/paper_models.md).
"""

MODELS_HEAD = """# The paper's models, and how it heals them

The two tables of appendix A.1 of Gromov et al., arXiv 2403.17887, written by `make tables` from
what `model=NAME heal=qlora` composes; a test keeps them true. Differences from the paper: it
prints a vocabulary of 151,936 for Qwen-14B, whose configuration has 152,064; and `c_proj` for
Qwen's projection, a name that the one of its attention has, too.
"""


def presets() -> dict[str, dict[str, str]]:
    """The header of each preset as {question, source, expectation, hardware, command}."""
    return {path.stem: _header(path) for path in sorted(conf_dir().glob("experiment/*.yaml"))}


def _header(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines()[1:] if line.startswith("#")]
    found: dict[str, str] = {}
    label = ""
    for line in lines:
        new = re.fullmatch(r"# (\w+):\s+(.*)", line)
        if new:
            label = new[1].lower()
            found[label] = new[2]
        elif label and line.startswith("#      "):
            found[label] += f" {line[1:].strip()}"
    return found


def index() -> str:
    """The page of all presets."""
    lines = [INDEX_HEAD, "| preset | also as | question | takes | note |", "|:--|:--|:--|:--|:--|"]
    known = presets()
    for name, said in known.items():
        if name.endswith(PAPER) and name.removesuffix(PAPER) in known:
            continue
        larger = f"`{name}{PAPER}`" if name + PAPER in known else ""
        cells = f"`{name}`", larger, said["question"], said["hardware"], _thumbnail(note_of(name))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def note_of(name: str) -> Path:
    """The lab note of a preset, there or not."""
    return INDEX.with_name(f"{BY_HAND.get(name, name)}.md")


def _thumbnail(note: Path) -> str:
    """A note's first figure, as a link to it; nothing where there is no note."""
    if not note.is_file():
        return ""
    shown = re.search(r"!\[.*?\]\((.+?\.png)\)", note.read_text(encoding="utf-8"))
    picture = f'<img src="{shown[1]}" width="{THUMBNAIL}" alt="{note.stem}">' if shown else "note"
    return f"[{picture}]({note.name})"


def head(name: str) -> str:
    """The first part of a preset's note: its header."""
    said = presets()[name]
    fields = [
        textwrap.fill(
            f"**{field.capitalize()}.** {said[field][:1].upper()}{said[field][1:]}",
            width=100,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for field in ("question", "source", "expectation", "hardware")
    ]
    return "\n".join([f"# {name}", "", f"    {said['command']}", "", *fields, "", ""])


def headed(name: str, note: str) -> str:
    """A note with its preset's head; one that was written by hand as it is."""
    _, begin, rest = note.partition(BEGIN)
    return f"{head(name)}{begin}{rest}" if begin else note


def models() -> str:
    """The page of the paper's models."""
    found = [compose(f"model={path.stem}", "heal=qlora") for path in _of_the_paper()]
    found.sort(key=lambda each: each.model.path.lower())
    lines = [
        MODELS_HEAD,
        "| `model=` | on the hub | layers | vocabulary | sequence length | tokens "
        "| peak learning rate | rank | adapted |",
        "|:--|:--|--:|--:|--:|--:|--:|--:|:--|",
        *map(_row, found),
        "",
        "| for all | |",
        "|:--|:--|",
        *(f"| {name} | {value} |" for name, value in _common(found).items()),
    ]
    return "\n".join(lines) + "\n"


def _of_the_paper() -> list[Path]:
    """Models whose preset says which projections to adapt: those of the paper."""
    return [
        path
        for path in conf_dir().glob("model/*.yaml")
        if path.stem != "custom" and compose(f"model={path.stem}").model.healing.targets
    ]


def _row(config: Config) -> str:
    model, heal = config.model, config.heal
    assert model.shape is not None
    assert None not in (heal.steps, heal.batch_size, heal.sequence_length, heal.targets)
    tokens = heal.steps * heal.batch_size * heal.sequence_length
    return (
        f"| `{model.name}` | {model.path} | {model.shape.num_hidden_layers} "
        f"| {model.shape.vocab_size:,} | {heal.sequence_length} | {tokens / 1e6:.0f}M "
        f"| {heal.learning_rate:.0e} | {heal.rank} | {', '.join(heal.targets)} |"
    ).replace("e-0", "e-")


def _common(configs: list[Config]) -> dict[str, object]:
    """What all of them are healed with. Fails where they differ."""
    names = {
        "optimiser steps": "steps",
        "sequences in a batch": "batch_size",
        "warm-up steps, then a cosine to 0": "warmup_steps",
        "dropout of LoRA": "dropout",
        "optimiser (not in the paper)": "optimizer",
        "weight decay (not in the paper)": "weight_decay",
        "clipping (not in the paper)": "max_grad_norm",
    }
    common: dict[str, object] = {}
    for label, key in names.items():
        (common[label],) = {getattr(config.heal, key) for config in configs}
    return {**common, "alpha of LoRA": "= rank", "weights": "NF4, double quantisation"}


def write() -> None:
    """Write all pages anew."""
    for name in presets():
        if (note := note_of(name)).is_file():
            note.write_text(headed(name, note.read_text(encoding="utf-8")), encoding="utf-8")
    INDEX.write_text(index(), encoding="utf-8")
    MODELS.write_text(models(), encoding="utf-8")


if __name__ == "__main__":
    write()
