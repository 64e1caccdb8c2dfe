"""Accuracy against the fraction dropped as characters: readable where nothing can be opened."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from layerprune.report.curves import Curve, Task

MARKS = "ox+*#@%&=~^sdvz"
"""One a curve; with more curves than marks, they begin again in another plot."""

BOTH = "2"
"""Where points of two curves fall on one character; three are 3, and so on up to 9."""

HEIGHT = 16
"""Lines of a plot, without its axis."""

MARGIN = 7
"""Characters of the vertical axis and its numbers."""


@dataclass(frozen=True)
class Plot:
    """One task, and as many curves as there are marks."""

    title: str
    lines: tuple[str, ...]
    """The plot itself, with its axes."""
    legend: tuple[str, ...]
    """A line for each curve, its mark first."""


def make_plots(curves: Sequence[Curve], tasks: Sequence[Task], width: int) -> list[Plot]:
    """A plot for each task that is not part of another; `width` is in characters."""
    plots = []
    for task in tasks:
        if task.parent is not None:
            continue
        asked = [(curve, found) for curve in curves if (found := _points(curve, task.name))]
        for start in range(0, len(asked), len(MARKS)):
            plots.append(_plot(task, asked[start : start + len(MARKS)], width))
    return plots


def show_plots(console: Console, plots: Sequence[Plot]) -> None:
    """Print the plots."""
    for plot in plots:
        console.print(Text(plot.title, style="bold"))
        for line in (*plot.lines, *plot.legend, ""):
            console.print(Text(line), soft_wrap=True)


def _points(curve: Curve, task: str) -> list[tuple[float, float]]:
    return [
        (entry.fraction, accuracy.value)
        for entry in curve.entries
        if (accuracy := entry.accuracy(task)) is not None
    ]


def _plot(task: Task, asked: Sequence[tuple[Curve, list[tuple[float, float]]]], width: int) -> Plot:
    values = [value for _, found in asked for _, value in found]
    # Whole tenths, so that the axis has round numbers.
    low = min(0.1 * int(10 * each) for each in (*values, *task.chances))
    high = max(low + 0.1, max(-0.1 * int(-10 * each - 1 + 1e-9) for each in values))
    far = max(0.1, max(fraction for _, found in asked for fraction, _ in found))
    columns = width - MARGIN - 1
    cells: dict[tuple[int, int], set[str]] = {}

    def line_of(value: float) -> int:
        return round((high - value) / (high - low) * (HEIGHT - 1))

    for mark, (_, found) in zip(MARKS, asked, strict=False):
        for fraction, value in found:
            place = line_of(value), round(fraction / far * (columns - 1))
            cells.setdefault(place, set()).add(mark)
    guessing = {line_of(chance) for chance in task.chances}
    lines = []
    for at in range(HEIGHT):
        named = at % 5 == 0
        axis = f"{100 * (high - (high - low) * at / (HEIGHT - 1)):4.0f}% " if named else " " * 6
        ground = "." if at in guessing else " "
        drawn = "".join(_sign(cells.get((at, column)), ground) for column in range(columns))
        lines.append(f"{axis}{'+' if named else '|'}{drawn}".rstrip())
    lines += [f"{' ' * 6}+{'-' * columns}", _ticks(far, columns)]
    legend = [f"  {mark}  {curve.label}" for mark, (curve, _) in zip(MARKS, asked, strict=False)]
    if any(len(marks) > 1 for marks in cells.values()):
        legend.append(f"  {BOTH}  as many curves at one place")
    if task.chances:
        legend.append(f"  .  guessing evenly ({', '.join(f'{each:.1%}' for each in task.chances)})")
    title = f"{task.name}: accuracy against the fraction of layers dropped, {task.size}"
    return Plot(title, tuple(lines), tuple(legend))


def _sign(marks: set[str] | None, ground: str) -> str:
    if not marks:
        return ground
    return next(iter(marks)) if len(marks) == 1 else str(min(9, len(marks)))


def _ticks(far: float, columns: int) -> str:
    """The numbers under the horizontal axis."""
    line = [" "] * (MARGIN + columns)
    for part in range(5):
        text = f"{100 * far * part / 4:.0f}%"
        start = MARGIN + round(part / 4 * (columns - 1))
        start = min(start, MARGIN + columns - len(text))
        line[start : start + len(text)] = text
    return "".join(line).rstrip()
