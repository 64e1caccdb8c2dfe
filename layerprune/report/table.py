"""The points of a study as tables of texts, and those on a terminal."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from layerprune.report.curves import Curve, Task
from layerprune.report.entry import Entry, ranges

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
        names = ["fraction", "n"]
        for block in self.blocks:
            names += [max(block, self.columns[0], key=len), *self.columns[1:]]
        gap = 3  # as rich sets the columns
        return sum(
            max(map(len, (name[:LAYERS_WIDTH], *(text[:LAYERS_WIDTH] for text in column)))) + gap
            for name, column in zip(names, zip(*self.rows, strict=True), strict=True)
        )


def make_grids(curves: Sequence[Curve], tasks: Sequence[Task], width: int) -> list[Grid]:
    """Tables of every point; curves of one model and the same questions share one if it fits."""
    alike: dict[str, list[Curve]] = defaultdict(list)
    for curve in curves:
        alike[curve.first.ground].append(curve)
    heads = [task for task in tasks if task.parent is None]
    grids = []
    for group in alike.values():
        side: list[Curve] = []
        for curve in group:
            if side and _grid([*side, curve], heads).width > width:
                grids.append(_grid(side, heads))
                side = []
            side.append(curve)
        grids.append(_grid(side, heads))
    return grids


def notes_once(grids: Sequence[Grid]) -> list[tuple[Grid, str]]:
    """Each table with what to say under it: nothing where the next note is the same."""
    following = [*(grid.note for grid in grids[1:]), ""]
    return [
        (grid, "" if grid.note == after else grid.note)
        for grid, after in zip(grids, following, strict=True)
    ]


def show_grids(console: Console, grids: Sequence[Grid]) -> None:
    """Print the tables."""
    for grid, note in notes_once(grids):
        table = Table(
            title=Text(grid.title, style="bold"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        # The curve's name stands over its block's first column; with one curve, in the title.
        several = len(grid.blocks) > 1
        for name in ("fraction", "n"):
            table.add_column(Text(f"\n{name}" if several else name), justify="right", no_wrap=True)
        for block in grid.blocks:
            for at, name in enumerate(grid.columns):
                above = f"{'' if at else block}\n" if several else ""
                table.add_column(
                    Text(f"{above}{name}"),
                    justify="right" if at else "left",
                    no_wrap=at > 0,
                    max_width=None if at else LAYERS_WIDTH,
                )
        for row in grid.rows:
            table.add_row(*map(Text, row))
        console.print(table)
        if note:
            console.print(Text(f"{note}\n", style="dim"))


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
        row = [f"{any_entry.fraction:.1%}", str(key[0])]
        for at in range(len(curves)):
            row += _cells(placed[key].get(at), asked)
        rows.append(tuple(row))
    names = tuple(curve.short for curve in curves)
    return Grid(
        title=first.model if len(curves) > 1 else f"{first.model}: {names[0]}",
        blocks=names,
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
    value = entry.accuracy(task)
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
            guess = f", guessing evenly {answers.chance:.1%}" if answers.chance else ""
            said.append(
                f"{task.name}: accuracy ± standard error on {answers.num_samples:,} "
                f"questions{guess}."
            )
    said.append(
        f"loss: nats per token on {first.loss.num_sequences} held-out sequences; "
        "/ ln V: 1 is guessing evenly."
    )
    return " ".join(said)
