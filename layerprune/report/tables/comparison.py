"""The comparison of two sides as printed: a table, and a verdict in one sentence."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from layerprune.analysis.comparison import Comparison, TaskDifference
from layerprune.analysis.curves import UNHEALED
from layerprune.analysis.statistics import LEVEL
from layerprune.record.point import Point, layer_ranges
from layerprune.report.tables.text_table import table_of
from layerprune.report.terminal import print_table

MAX_ROWS = 40
"""Rows of the table; of more, those with the smallest p are shown."""

MAX_NAMES = 5
"""Points of one study only, or settings, that are named before the rest is counted."""


def show_comparison(console: Console, comparison: Comparison, skipped: Sequence[str]) -> None:
    """Print a row for each difference, the points of one side only, and the verdict."""
    first, second = comparison.names
    differences = comparison.differences
    if len(differences) > MAX_ROWS:
        least = set(
            sorted(range(len(differences)), key=lambda row: _order(differences[row]))[:MAX_ROWS]
        )
        differences = tuple(differences[row] for row in sorted(least))
    if differences:
        hidden = len(comparison.differences) - len(differences)
        more = f" {hidden:,} more rows, with greater p, are left out." if hidden else ""
        table = table_of(
            f"{first} → {second}",
            2,
            map(_cells, differences),
            f"difference: paired, with its {LEVEL:.0%} bootstrap interval over questions. "
            f"lost, won: questions that only {first} and only {second} answers correctly. p: "
            f"McNemar's, exact, adjusted for {len(comparison.differences):,} comparisons "
            f"(Holm); *: below {1 - LEVEL:.2f}. loss: on held-out text; records hold no noise "
            f"of its differences.{more}",
        )
        print_table(console, table)
    for line in skipped:
        console.print(Text(f"Skipped {line}"), soft_wrap=True)
    for name, points in zip(comparison.names, comparison.only, strict=True):
        if points:
            console.print(Text(f"Only in {name}: {_listed([_name(point) for point in points])}."))
    console.print(Text(verdict(comparison)))


def verdict(comparison: Comparison) -> str:
    """Return the comparison in one sentence."""
    first, second = comparison.names
    count, losses = comparison.num_pairs, comparison.losses
    settings = f"they differ in {_listed(comparison.settings)}" if comparison.settings else ""
    if not count:
        reason = f": {settings}" if settings else ""
        return f"{first} and {second} have no points to compare{reason}."
    tested = [difference for difference in comparison.differences if difference.p is not None]
    points = f"{count:,} point{'' if count == 1 else 's'} that both have"
    if settings:
        points = f"{count:,} pair{'' if count == 1 else 's'} of points ({settings})"
    loss = f"losses differ by {max(map(abs, losses)):.4f} nats at most"
    if not tested:
        return f"Without single answers, noise is unknown at the {points}; {loss}."
    if all(
        difference.paired and difference.paired.only_first == difference.paired.only_second == 0
        for difference in tested
    ):
        return f"Every question has the same outcome at the {points}; {loss}."
    largest = max(tested, key=lambda difference: abs(difference.difference))
    most = (
        f"the largest difference is {100 * largest.difference:+.1f} points "
        f"({largest.task}, {_pair_name(largest.first, largest.second)}); {loss}."
    )
    significant = [difference for difference in tested if difference.significant]
    if not significant:
        return f"Nothing differs beyond noise at the {points}; {most}"
    better = sum(difference.difference > 0 for difference in significant)
    return (
        f"{len(significant):,} of {len(tested):,} accuracies at the {points} differ beyond noise: "
        f"{second} is better in {better:,} and worse in {len(significant) - better:,}; {most}"
    )


def study_names(studies: Sequence[Path]) -> tuple[str, str]:
    """Return the names of two studies: their folders' names, or the paths if these are equal."""
    first, second = studies
    same = first.resolve().name == second.resolve().name
    return (str(first), str(second)) if same else (first.resolve().name, second.resolve().name)


def _cells(difference: TaskDifference) -> Iterator[tuple[str, str]]:
    before, after = difference.accuracy
    paired = difference.paired
    interval, changed, p = "", "", ""
    if paired is not None and difference.p is not None:
        interval = f" [{100 * paired.interval.low:+.1f}, {100 * paired.interval.high:+.1f}]"
        changed = f"{paired.only_first}, {paired.only_second}"
        value = "<0.001" if difference.p < 0.001 else f"{difference.p:.3f}"
        p = f"{value}{'*' if difference.significant else ' '}"
    yield "point", _pair_name(difference.first, difference.second)
    yield "task", difference.task
    yield "accuracy\n%", f"{100 * before:.1f} → {100 * after:.1f}"
    yield "difference\npoints", f"{100 * difference.difference:+.1f}{interval}"
    yield "lost,\nwon", changed
    yield "p", p
    yield "loss\nnats", f"{difference.loss:+.4f}"


def _order(difference: TaskDifference) -> tuple[float, float]:
    return 2.0 if difference.p is None else difference.p, -abs(difference.difference)


def _name(point: Point) -> str:
    healed = "" if point.recipe == UNHEALED else f" {point.recipe}"
    layers = layer_ranges(point.plan.dropped) if point.plan.dropped else "no layer"
    return f"{point.model.name} {point.plan.strategy}{healed} {layers}"


def _pair_name(first: Point, second: Point) -> str:
    name, other = _name(first), _name(second)
    return name if name == other else f"{name} → {other.removeprefix(f'{second.model.name} ')}"


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - MAX_NAMES
    return f"{'; '.join(names[:MAX_NAMES])}{f'; and {rest:,} more' if rest > 0 else ''}"
