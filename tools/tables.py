"""Writes pages from `conf/`: the index of presets, and the tables of the paper's appendix A.1.

    python tools/tables.py

`make tables` does it, and writes a preset's question, command, source, expectation and hardware
into its lab note; a test holds all of them true.
"""

import re
from collections.abc import Sequence
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

FIGURES = "<!-- figures and tables: written by make notes -->"
MEASURED_HOW = "<!-- provenance: written by make notes and make tables -->"
END = "<!-- end -->"
"""After either part."""

MADE = ("points", "machine", "commit", "versions")
"""What a note says of how its points were made, as `provenance_facts` names it."""

THUMBNAIL = 160
"""Pixels, the width of a note's first figure in the index."""

INDEX_HEAD = """# Presets and lab notes

`make tables` writes this page from the first lines of each preset in
[conf/experiment](../conf/experiment); a test keeps it true.

    python main.py experiment=NAME                  the bundled model and text, on two CPU cores
    python main.py experiment=NAME_paper            the paper's size: GPUs and hub access
    python main.py experiment=NAME dry_run=true     finished and pending points, and their cost
    make experiments                                all presets of the first kind, two at a time

Rerun a stopped preset to resume it. `fig1`, `fig3`, `fig5` and `fig8` share the points of one
study, `mini`. `fig1_paper` to `fig3_paper`, `fig5_paper` and `fig6_paper` share the points of
the study `paper`: each costs less after another. Each picture links to a lab note,
whose figures and numbers `make notes` writes. Notes whose provenance names layerprune 0.1.0
predate a correction of the bundled model's tokenizer. It changes unhealed losses by about 1 %, and
the block of five layers. We have only dry-run the presets of the paper's size;
their A100-hours are estimates. The tables of the paper's appendix are in
[docs/paper_models.md](../docs/paper_models.md).
"""

MODELS_HEAD = """# Check the paper's models and hyperparameters

After this page you know which healing hyperparameters a model of the paper gets.

    python main.py model=llama2_7b heal=qlora data=c4_paper dry_run=true

The dry run counts 983M tokens of training for six points, 164M each as in the table below.

`make tables` writes this page from what `model=NAME heal=qlora` composes, and a test keeps it
current. The numbers follow appendix A.1 of Gromov et al., arXiv 2403.17887, with two
differences:

- For Qwen-14B the paper prints a vocabulary of 151,936. Its configuration has 152,064.
- For Qwen the paper names `c_proj`. Qwen's attention has a projection of that name too, so we use
  `mlp.c_proj`.
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
    lines = [
        INDEX_HEAD,
        "| preset | in the paper's size, estimated | question | takes | note |",
        "|:--|:--|:--|:--|:--|",
    ]
    known = presets()
    for name, said in known.items():
        if name.endswith(PAPER) and name.removesuffix(PAPER) in known:
            continue
        larger = known.get(name + PAPER)
        paper = "" if larger is None else f"`{name}{PAPER}`: {_gpu_hours(larger['hardware'])}"
        cells = f"`{name}`", paper, said["question"], said["hardware"], _thumbnail(note_of(name))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _gpu_hours(hardware: str) -> str:
    """What a preset in the paper's size takes, from its header."""
    found = re.search(r"[\d.,]+ A100-hours?", hardware)
    if found is None:
        raise ValueError(f"no A100-hours in {hardware!r}")
    return found[0]


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
    """The title of a preset's note: its question."""
    return f"# {name}: {presets()[name]['question']}\n\n"


def provenance(name: str, made: Sequence[str]) -> str:
    """The last part of a preset's note, folded: its header, and the lines of how it was made."""
    said = presets()[name]
    facts = [f"- {field}: {said[field]}" for field in ("source", "expectation", "hardware")]
    return "\n".join(
        [MEASURED_HOW, "<details>", "<summary>Command, source and provenance</summary>", "",
         f"    {said['command']}", "", *facts, *made, "", "</details>", END, ""]
    )  # fmt: skip


def headed(name: str, note: str) -> str:
    """A note with its preset's title and header; one that was written by hand as it is."""
    _, marked, rest = note.partition(MEASURED_HOW)
    if not (marked and FIGURES in note):
        return note
    made = [
        line for line in rest.splitlines() if line.startswith(tuple(f"- {of}: " for of in MADE))
    ]
    words = note.partition(MEASURED_HOW)[0].partition("\n\n")[2]
    return f"{head(name)}{words}{provenance(name, made)}"


def models() -> str:
    """The page of the paper's models."""
    found = [compose(f"model={path.stem}", "heal=qlora") for path in _of_the_paper()]
    found.sort(key=lambda each: each.model.path.lower())
    lines = [
        MODELS_HEAD,
        "| `model=` | hub id | layers | vocabulary | sequence length | tokens "
        "| peak learning rate | LoRA rank | adapted modules |",
        "|:--|:--|--:|--:|--:|--:|--:|--:|:--|",
        *map(_row, found),
        "",
        "| all models | |",
        "|:--|:--|",
        *(f"| {name} | {value} |" for name, value in _common(found).items()),
    ]
    return "\n".join(lines) + "\n"


def _of_the_paper() -> list[Path]:
    """Models whose preset says which projections to adapt: the paper's models."""
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
        "sequences per batch": "batch_size",
        "warm-up steps, before a cosine decay to 0": "warmup_steps",
        "LoRA dropout": "dropout",
        "optimiser (not in the paper)": "optimizer",
        "weight decay (not in the paper)": "weight_decay",
        "gradient clipping (not in the paper)": "max_grad_norm",
    }
    common: dict[str, object] = {}
    for label, key in names.items():
        (common[label],) = {getattr(config.heal, key) for config in configs}
    return {**common, "LoRA alpha": "= rank", "weights": "NF4, double quantisation"}


def write() -> None:
    """Rewrite all pages."""
    for name in presets():
        if (note := note_of(name)).is_file():
            note.write_text(headed(name, note.read_text(encoding="utf-8")), encoding="utf-8")
    INDEX.write_text(index(), encoding="utf-8")
    MODELS.write_text(models(), encoding="utf-8")


if __name__ == "__main__":
    write()
