"""A report on a terminal: its tables, and accuracy curves drawn with characters."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from layerprune.analysis.curves import Curve, Task
from layerprune.report import Report
from layerprune.report.tables.critical import critical_table
from layerprune.report.tables.healing_table import make_healing_table
from layerprune.report.tables.points import point_tables
from layerprune.report.tables.provenance import BLOCKS, agreements
from layerprune.report.tables.search_result import SAMPLES
from layerprune.report.tables.speed_table import make_speed_table
from layerprune.report.tables.text_table import ARROW, LAYERS, LAYERS_WIDTH, WIDTH, TextTable

MOST_PRINTED = 500
"""Points whose tables are printed without `--text`."""

MARKS = "ox+*#@%&=~^sdvz"
"""One per curve; with more curves than marks, they begin again in another plot."""

SEVERAL = "2"
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


def make_console() -> Console:
    """Return a console for standard output, of `WIDTH` characters where that is no terminal."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    return console


def show(report: Report, text_curves: bool = False) -> None:
    """Print the tables, then what was skipped and what was written.

    With `text_curves`, each task's accuracy against the fraction follows the tables. Without, the
    tables of studies with more than `MOST_PRINTED` points are left to the page.
    """
    console = make_console()
    curves, tasks, width = report.curves, report.tasks, console.width
    num_points = len(report.points)
    tables: list[TextTable | None] = []
    if text_curves or num_points <= MOST_PRINTED:
        tables += point_tables(curves, tasks, width)
        tables += [make_healing_table(curves, tasks, width), make_speed_table(curves, width)]
    else:
        console.print(f"The tables of {num_points:,} points are in the page; --text prints them.\n")
    tables.append(critical_table(report.critical, width))
    tables += [table for table in report.search_tables if table.title != SAMPLES]  # too wide
    for table in tables:
        if table is not None:
            print_table(console, table)
    for line in agreements(report.profiles):
        console.print(Text(f"{BLOCKS.capitalize()}: {line}\n"))
    if text_curves:
        for plot in make_plots(curves, tasks, width):
            console.print(Text(plot.title, style="bold"))
            for line in (*plot.lines, *plot.legend, ""):
                console.print(Text(line), soft_wrap=True)
    lines = [f"Skipped {line}" for line in report.skipped]
    lines += [f"Failed: {line}" for line in report.failed]
    # The four files of a figure share a line.
    figures = {path.with_suffix("") for path in report.written if path.suffix == ".svg"}
    for path in report.written:
        if path.with_suffix("") not in figures:
            lines.append(str(path))
        elif path.suffix == ".svg":
            lines.append(f"{path}, .png, .pdf and .csv")
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def print_table(console: Console, table: TextTable) -> None:
    """Print a table and its note."""
    grid = Table(
        title=Text(table.title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    two_lines = any("\n" in heading for heading in table.headings)
    for index, (name, heading) in enumerate(zip(table.columns, table.headings, strict=True)):
        grid.add_column(
            Text(f"\n{heading}" if two_lines and "\n" not in heading else heading),
            justify="left" if table.is_left(index) else "right",
            no_wrap=name != LAYERS and ARROW not in name and (index > 0 or not table.num_names),
            max_width=LAYERS_WIDTH if name == LAYERS else None,
            overflow="fold",
        )
    for row in table.rows:
        grid.add_row(*map(Text, row))
    console.print(grid)
    if table.note:
        console.print(Text(f"{table.note}\n", style="dim"))


def make_plots(curves: Sequence[Curve], tasks: Sequence[Task], width: int) -> list[Plot]:
    """Return a plot for each task that is not part of another; `width` is in characters."""
    plots = []
    for task in tasks:
        if task.parent is not None:
            continue
        drawn = [curve for curve in curves if curve.scored(task.name)]
        for start in range(0, len(drawn), len(MARKS)):
            plots.append(_plot(task, drawn[start : start + len(MARKS)], width))
    return plots


def _plot(task: Task, curves: Sequence[Curve], width: int) -> Plot:
    places = [
        (mark, point.plan.fraction, point.correct_share(task.name))
        for mark, curve in zip(MARKS, curves, strict=False)
        for point in curve.scored(task.name)
    ]
    values = [value for *_, value in places]
    # Whole tenths, so that the axis has round numbers.
    low = min(0.1 * int(10 * value) for value in (*values, *task.chances))
    high = max(low + 0.1, max(-0.1 * int(-10 * value - 1 + 1e-9) for value in values))
    right = max(0.1, max(fraction for _, fraction, _ in places))
    columns = width - MARGIN - 1

    def line_of(value: float) -> int:
        return round((high - value) / (high - low) * (HEIGHT - 1))

    marks: dict[tuple[int, int], set[str]] = {}
    for mark, fraction, value in places:
        cell = line_of(value), round(fraction / right * (columns - 1))
        marks.setdefault(cell, set()).add(mark)
    chance_lines = {line_of(chance) for chance in task.chances}
    lines = []
    for index in range(HEIGHT):
        labelled = index % 5 == 0
        value = high - (high - low) * index / (HEIGHT - 1)
        axis = f"{100 * value:4.0f}% +" if labelled else f"{' ' * 6}|"
        blank = "." if index in chance_lines else " "
        cells = (_sign(marks.get((index, column)), blank) for column in range(columns))
        lines.append(f"{axis}{''.join(cells)}".rstrip())
    lines += [f"{' ' * 6}+{'-' * columns}", _ticks(right, columns)]
    legend = [f"  {mark}  {curve.label}" for mark, curve in zip(MARKS, curves, strict=False)]
    if any(len(cell) > 1 for cell in marks.values()):
        legend.append(f"  {SEVERAL}  number of curves that share a place")
    if task.chances:
        legend.append(f"  .  chance ({', '.join(f'{chance:.1%}' for chance in task.chances)})")
    title = f"{task.name}: accuracy against the fraction of layers removed, {task.size}"
    return Plot(title, tuple(lines), tuple(legend))


def _sign(marks: set[str] | None, blank: str) -> str:
    if not marks:
        return blank
    return next(iter(marks)) if len(marks) == 1 else str(min(9, len(marks)))


def _ticks(right: float, columns: int) -> str:
    """Return the numbers under the horizontal axis, from 0 to the fraction `right`."""
    line = [" "] * (MARGIN + columns)
    for quarter in range(5):
        text = f"{25 * right * quarter:.0f}%"
        start = MARGIN + round(quarter / 4 * (columns - 1))
        start = min(start, MARGIN + columns - len(text))
        line[start : start + len(text)] = text
    return "".join(line).rstrip()
