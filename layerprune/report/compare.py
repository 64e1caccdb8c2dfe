"""Two studies, point by point: what differs between them beyond noise."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from layerprune.report.entry import Entry, ranges
from layerprune.report.marks import marks_of
from layerprune.report.statistics import LEVEL, Comparison, compare, holm

MOST = 40
"""Lines of the table: where there are more, those with the least p are shown."""

SAID = 5
"""Points of one study only, or settings, that are named before the rest is counted."""


@dataclass(frozen=True)
class Change:
    """One task of one point that both studies have."""

    first: Entry
    second: Entry
    task: str
    accuracy: tuple[float, float]
    compared: Comparison | None
    """None where one of the records does not have each answer, or other questions were asked."""
    p: float | None
    """McNemar's, adjusted for all changes of the two studies by Holm's method."""

    @property
    def beyond_noise(self) -> bool:
        """Whether the difference is more than chance would make it."""
        return self.p is not None and self.p < 1 - LEVEL

    @property
    def difference(self) -> float:
        """Accuracy in the second study less that in the first."""
        return self.accuracy[1] - self.accuracy[0]

    @property
    def loss(self) -> float:
        """Nats per token in the second study less those in the first."""
        return _loss(self.first, self.second)


@dataclass(frozen=True)
class Compared:
    """Two studies."""

    names: tuple[str, str]
    changes: tuple[Change, ...]
    """Of each point and task that both have, by strategy and number of layers dropped."""
    losses: tuple[float, ...]
    """Of each point that both have, likewise: nats per token in the second less the first."""
    num_both: int
    """Points that both have."""
    alone: tuple[tuple[Entry, ...], tuple[Entry, ...]]
    """Points that only one of them has."""
    differing: tuple[str, ...]
    """Settings of which no value occurs in both studies, where they share no point."""

    @property
    def verdict(self) -> str:
        """All of it in one sentence."""
        first, second = self.names
        if not self.num_both:
            why = f": they differ in {_listed(self.differing)}" if self.differing else ""
            return f"{first} and {second} have no point in common{why}."
        told = [change for change in self.changes if change.p is not None]
        points = f"{self.num_both:,} point{'' if self.num_both == 1 else 's'} that both have"
        losses = f"losses differ by {max(map(abs, self.losses)):.4f} nats at most"
        if not told:
            return f"Without single answers, noise cannot be told at the {points}; {losses}."
        same = all(each.compared and each.compared.only_first == each.compared.only_second == 0
                   for each in told)  # fmt: skip
        if same:
            return f"Every question has the same outcome at the {points}; {losses}."
        beyond = [change for change in told if change.beyond_noise]
        largest = max(told, key=lambda change: abs(change.difference))
        most = f"the largest difference is {100 * largest.difference:+.1f} points"
        where = f"{largest.task}, {_name(largest.first)}"
        if not beyond:
            return f"Nothing differs beyond noise at the {points}; {most} ({where}); {losses}."
        better = sum(change.difference > 0 for change in beyond)
        return (
            f"{len(beyond):,} of {len(told):,} accuracies at the {points} differ beyond noise: "
            f"{second} is better in {better:,} and worse in {len(beyond) - better:,}; "
            f"{most} ({where}); {losses}."
        )


def _loss(first: Entry, second: Entry) -> float:
    return second.loss.nats.value - first.loss.nats.value


def compare_studies(
    names: tuple[str, str], first: Iterable[Entry], second: Iterable[Entry]
) -> Compared:
    """What differs between the points of two studies that agree in settings and layers dropped."""
    one, other = _places(first), _places(second)
    shared = sorted((place for place in one if place in other), key=lambda at: _rank(one[at]))
    found = [
        (one[place], other[place], task, _compared(one[place], other[place], task))
        for place in shared
        for task in _heads(one[place])
        if task in _heads(other[place])
    ]
    told = [each[3] for each in found if each[3] is not None]
    adjusted = iter(holm([each.p for each in told]))
    changes = tuple(
        Change(
            a, b, task, (a.right(task), b.right(task)), compared,
            None if compared is None else next(adjusted),
        )
        for a, b, task, compared in found
    )  # fmt: skip
    only = tuple(
        tuple(sorted((mine[place] for place in mine if place not in theirs), key=_rank))
        for mine, theirs in ((one, other), (other, one))
    )
    return Compared(
        names,
        changes,
        tuple(_loss(one[place], other[place]) for place in shared),
        len(shared),
        (only[0], only[1]),
        () if shared else tuple(_differing(one.values(), other.values())),
    )


def show_compared(console: Console, compared: Compared, skipped: Sequence[str]) -> None:
    """Print a line for each change, the points of one study only, and the verdict."""
    first, second = compared.names
    changes = compared.changes
    if len(changes) > MOST:
        kept = sorted(changes, key=_surprise)
        chosen = {id(each) for each in kept[:MOST]}
        changes = tuple(each for each in changes if id(each) in chosen)
    if changes:
        table = Table(
            title=Text(f"{first} → {second}", style="bold"),
            title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
        )  # fmt: skip
        table.add_column(Text("\npoint"))
        for name in (
            "\ntask",
            "accuracy\n%",
            "difference\npoints",
            "lost,\nwon",
            "\np",
            "loss\nnats",
        ):
            table.add_column(
                Text(name), justify="left" if "task" in name else "right", no_wrap=True
            )
        for change in changes:
            table.add_row(*map(Text, _cells(change)))
        console.print(table)
        hidden = len(compared.changes) - len(changes)
        more = f" {hidden:,} more lines, with greater p, are left out." if hidden else ""
        console.print(
            Text(
                f"difference: paired, with its {LEVEL:.0%} bootstrap interval over questions. "
                f"lost, won: questions that {first} alone and {second} alone answers rightly. p: "
                f"McNemar's, exact, adjusted for {len(compared.changes):,} comparisons (Holm); "
                f"*: below {1 - LEVEL:.2f}. loss: on held-out text; records do not say how far it "
                f"may differ by chance.{more}\n",
                style="dim",
            )
        )
    for line in skipped:
        console.print(Text(f"Skipped {line}"), soft_wrap=True)
    for name, entries in zip(compared.names, compared.alone, strict=True):
        if entries:
            console.print(Text(f"Only in {name}: {_listed([_name(each) for each in entries])}."))
    console.print(Text(compared.verdict))


def study_names(studies: Sequence[Path]) -> tuple[str, str]:
    """What to call two studies: their folders' names, or their paths where these are the same."""
    first, second = studies
    same = first.resolve().name == second.resolve().name
    return (str(first), str(second)) if same else (first.resolve().name, second.resolve().name)


def _places(entries: Iterable[Entry]) -> dict[tuple[str, tuple[int, ...]], Entry]:
    return {(entry.curve_key, entry.dropped): entry for entry in entries}


def _heads(entry: Entry) -> list[str]:
    return [
        name
        for name, answers in entry.answers.items()
        if answers.parent is None and answers.accuracy is not None
    ]


def _compared(first: Entry, second: Entry, task: str) -> Comparison | None:
    one, other = first.answers[task], second.answers[task]
    asked_alike = (one.version, one.num_fewshot) == (other.version, other.num_fewshot)
    marks = marks_of(first, task), marks_of(second, task)
    if marks[0] is None or marks[1] is None or not asked_alike or marks[0].size != marks[1].size:
        return None
    return compare(marks[0], marks[1])


def _differing(first: Iterable[Entry], second: Iterable[Entry]) -> Iterable[str]:
    one, other = list(first), list(second)
    for name in dict.fromkeys(name for entry in (*one, *other) for name in entry.settings):
        values = [{entry.settings.get(name) for entry in entries} for entries in (one, other)]
        if not values[0] & values[1]:
            yield name


def _cells(change: Change) -> tuple[str, ...]:
    before, after = change.accuracy
    compared = change.compared
    interval, changed, p = "", "", ""
    if compared is not None and change.p is not None:
        low, high = compared.interval.low, compared.interval.high
        interval = f" [{100 * low:+.1f}, {100 * high:+.1f}]"
        changed = f"{compared.only_first}, {compared.only_second}"
        p = f"{_p(change.p)}{'*' if change.beyond_noise else ' '}"
    return (
        _name(change.first),
        change.task,
        f"{100 * before:.1f} → {100 * after:.1f}",
        f"{100 * change.difference:+.1f}{interval}",
        changed,
        p,
        f"{change.loss:+.4f}",
    )


def _surprise(change: Change) -> tuple[float, float]:
    return 2.0 if change.p is None else change.p, -abs(change.difference)


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _name(entry: Entry) -> str:
    healed = "" if entry.heal == "none" else f" {entry.heal}"
    layers = f" {ranges(entry.dropped)}" if entry.dropped else " no layer"
    return f"{entry.model} {entry.strategy}{healed}{layers}"


def _rank(entry: Entry) -> tuple[object, ...]:
    return (
        entry.model, entry.metric, entry.strategy, entry.heal, entry.seed, entry.num_dropped,
        entry.dropped, entry.curve_key,
    )  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - SAID
    return f"{'; '.join(names[:SAID])}{f'; and {rest:,} more' if rest > 0 else ''}"
