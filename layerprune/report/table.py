"""The points of a study as tables of texts, and those on a terminal."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from layerprune.report.curves import ACCURACY, Curve, Task
from layerprune.report.entry import Entry, Value, ranges

WIDTH = 100
"""Characters in a line where the output is not a terminal."""

LAYERS_WIDTH = 30
"""A longer list of layers goes on in the next line."""


@dataclass(frozen=True)
class Grid:
    """A table: a row for each number of layers dropped, a block of columns for each curve."""

    title: str
    blocks: tuple[str, ...]
    """The curves' names."""
    columns: tuple[str, ...]
    """What stands in each block, again for every block; before them `fraction` and `n`."""
    rows: tuple[tuple[str, ...], ...]
    note: str

    @property
    def width(self) -> int:
        """Characters that a line takes on a terminal."""
        names = self.columns * len(self.blocks)
        cells = list(zip(*self.rows, strict=True))
        wide = sum(
            max(len(name), *(min(len(text), LAYERS_WIDTH) for text in column)) + 2
            for name, column in zip(names, cells[2:], strict=True)
        )
        return wide + len("fraction") + 2 + len("99") + 2


def make_grids(curves: Sequence[Curve], tasks: Sequence[Task], width: int) -> list[Grid]:
    """Tables of every point; curves of one model and the same questions share one if it fits."""
    alike: dict[str, list[Curve]] = defaultdict(list)
    for curve in curves:
        alike[curve.first.ground].append(curve)
    heads = [task for task in tasks if task.parent is None]
    grids = []
    for group in alike.values():
        together = _grid(group, heads)
        fits = len(group) == 1 or together.width <= width
        grids += [together] if fits else [_grid([curve], heads) for curve in group]
    return grids


def show_grids(console: Console, grids: Sequence[Grid]) -> None:
    """Print the tables."""
    for grid in grids:
        table = Table(
            title=Text(grid.title, style="bold"),
            caption=Text(grid.note, style="dim"),
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        table.add_column(Text("\nfraction"), justify="right", no_wrap=True)
        table.add_column(Text("\nn"), justify="right", no_wrap=True)
        for block in grid.blocks:
            for at, name in enumerate(grid.columns):
                # The curve's name stands over its first column; with one curve, in the title.
                above = block if at == 0 and len(grid.blocks) > 1 else ""
                layers = name == "layers"
                table.add_column(
                    Text(f"{above}\n{name}"),
                    justify="left" if layers else "right",
                    no_wrap=not layers,
                    max_width=LAYERS_WIDTH if layers else None,
                )
        for row in grid.rows:
            table.add_row(*map(Text, row))
        console.print(table)


def _grid(curves: Sequence[Curve], heads: Sequence[Task]) -> Grid:
    first = curves[0].first
    asked = [
        task
        for task in heads
        if any(task.name in entry.answers for curve in curves for entry in curve.entries)
    ]
    placed: dict[tuple[int, int], dict[int, Entry]] = defaultdict(dict)
    for at, curve in enumerate(curves):
        seen: dict[int, int] = defaultdict(int)
        for entry in curve.entries:
            # Layers named by the user can be different ones of the same number: a row for each.
            placed[entry.num_dropped, seen[entry.num_dropped]][at] = entry
            seen[entry.num_dropped] += 1
    rows = []
    for key in sorted(placed):
        any_entry = next(iter(placed[key].values()))
        row = [f"{100 * any_entry.fraction:.1f} %", str(key[0])]
        for at in range(len(curves)):
            row += _cells(placed[key].get(at), asked)
        rows.append(tuple(row))
    names = [curve.label for curve in curves]
    title = (
        first.model if len(curves) > 1 or names == [first.model] else f"{first.model}: {names[0]}"
    )
    return Grid(
        title=title,
        blocks=tuple(names),
        columns=("layers", *(f"{task.name} %" for task in asked), "loss", "/ ln V"),
        rows=tuple(rows),
        note=_note(first, asked),
    )


def _cells(entry: Entry | None, tasks: Sequence[Task]) -> list[str]:
    if entry is None:
        return [""] * (len(tasks) + 3)
    return [
        ranges(entry.dropped),
        *(_accuracy(entry, task.name) for task in tasks),
        f"{entry.loss.nats.value:.3f}",
        f"{entry.loss.normalised.value:.3f}",
    ]


def _accuracy(entry: Entry, task: str) -> str:
    value: Value | None = None
    if task in entry.answers:
        value = entry.answers[task].measures.get(ACCURACY)
    if value is None:
        return ""
    stderr = "" if value.stderr is None else f" ± {100 * value.stderr:.1f}"
    return f"{100 * value.value:.1f}{stderr}"


def _note(first: Entry, tasks: Sequence[Task]) -> str:
    """The sizes of the samples behind the numbers, and what guessing would give."""
    said = []
    for task in tasks:
        answers = first.answers.get(task.name)
        if answers is not None:
            guess = (
                "" if answers.chance is None else f", guessing evenly {100 * answers.chance:.1f} %"
            )
            said.append(
                f"{task.name}: accuracy ± standard error on {answers.num_samples:,} questions{guess}."
            )
    said.append(
        f"loss: nats per token on {first.loss.num_sequences} held-out sequences; "
        "/ ln V: 1 is guessing evenly."
    )
    return " ".join(said)
