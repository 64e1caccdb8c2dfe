"""Pairs of points of two studies, or of one, and the differences between them beyond noise."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter, itemgetter

from layerprune.analysis.correctness import correctness
from layerprune.analysis.curves import UNHEALED
from layerprune.analysis.statistics import LEVEL, PairedComparison, compare, holm
from layerprune.record.point import Point

SIDES = {
    "heal": attrgetter("recipe"),
    "strategy": attrgetter("plan.strategy"),
    "metric": attrgetter("plan.metric"),
    "seed": attrgetter("seed"),
}
"""What the points of one study can be compared by."""

LAYERS = ("prune.count", "prune.layers")
"""Settings that say which layers are removed."""

Pair = tuple[Point, Point]


@dataclass(frozen=True)
class TaskDifference:
    """One task of a pair of points."""

    first: Point
    second: Point
    task: str
    accuracy: tuple[float, float]
    paired: PairedComparison | None
    """None where a record lacks single answers, or where the questions differ."""
    p: float | None
    """McNemar's, adjusted for all comparisons of the two sides by Holm's method."""

    @property
    def significant(self) -> bool:
        """True if the difference exceeds noise."""
        return self.p is not None and self.p < 1 - LEVEL

    @property
    def difference(self) -> float:
        """Accuracy of the second point minus accuracy of the first."""
        return self.accuracy[1] - self.accuracy[0]

    @property
    def loss(self) -> float:
        """Held-out loss of the second point minus the first's, in nats per token."""
        return self.second.loss.nats - self.first.loss.nats


@dataclass(frozen=True)
class Comparison:
    """Two sides: studies, or the points of one study with two values of a setting."""

    names: tuple[str, str]
    differences: tuple[TaskDifference, ...]
    """Of each pair and task that both have, by strategy and number of layers removed."""
    losses: tuple[float, ...]
    """Loss differences of the pairs, likewise, in nats per token."""
    only: tuple[tuple[Point, ...], tuple[Point, ...]]
    """Points of one side without a pair."""
    settings: tuple[str, ...]
    """Settings in which the points of pairs differ, with their values; without pairs, settings of
    the first points."""

    @property
    def num_pairs(self) -> int:
        """Number of pairs of points."""
        return len(self.losses)


def compare_points(
    names: tuple[str, str], first: Iterable[Point], second: Iterable[Point]
) -> Comparison:
    """Compare the points of two sides in pairs.

    Points with the same settings and the same layers removed are pairs. If there are none, points
    of one model with as many layers removed are, if they answer the same questions. Each curve is
    paired with the one that differs from it in the fewest settings.
    """
    first, second = sorted(first, key=_rank), sorted(second, key=_rank)
    pairs = _equal_pairs(first, second) or _near_pairs(first, second)
    pairs.sort(key=lambda pair: (_rank(pair[0]), _rank(pair[1])))
    tested = [
        (before, after, task, _compare_task(before, after, task))
        for before, after in pairs
        for task in _tasks(before)
        if task in _tasks(after)
    ]
    adjusted = iter(holm([paired.p for *_, paired in tested if paired is not None]))
    differences = tuple(
        TaskDifference(
            before, after, task, (before.correct_share(task), after.correct_share(task)), paired,
            None if paired is None else next(adjusted),
        )
        for before, after, task, paired in tested
    )  # fmt: skip
    paired = [{point.key for point in side} for side in zip(*pairs, strict=True)] or [set(), set()]
    only_first, only_second = (
        tuple(point for point in points if point.key not in keys)
        for points, keys in zip((first, second), paired, strict=True)
    )
    changes = (
        f"{name} {old} → {new}"
        for pair in pairs or zip(first[:1], second[:1], strict=True)
        for name, (old, new) in differing_settings(*pair).items()
    )
    return Comparison(
        names,
        differences,
        tuple(after.loss.nats - before.loss.nats for before, after in pairs),
        (only_first, only_second),
        tuple(dict.fromkeys(changes)),
    )


def compare_by(setting: str, points: Iterable[Point]) -> list[Comparison]:
    """Compare the points of one study with the first value of one of `SIDES` to each other value.

    Points that were not healed come first.
    """
    sides: dict[str | int, list[Point]] = defaultdict(list)
    for point in points:
        sides[SIDES[setting](point)].append(point)
    first, *others = sorted(sides, key=lambda value: (value != UNHEALED, value))
    return [
        compare_points((f"{setting}={first}", f"{setting}={value}"), sides[first], sides[value])
        for value in others
    ]


def differing_settings(first: Point, second: Point) -> dict[str, tuple[str, str]]:
    """Return the settings in which two points differ, by name, except for the layers removed.

    Where a recipe or a strategy differs, options that only one of them has say nothing more.
    """
    old, new = (
        {name: value for name, value in point.settings.items() if name not in LAYERS}
        for point in (first, second)
    )
    both = {name: (old[name], new[name]) for name in old.keys() & new.keys()}
    changed = {name: values for name, values in sorted(both.items()) if values[0] != values[1]}
    groups = {re.split(r"[._]", name)[0] for name in changed}
    for name in sorted(old.keys() ^ new.keys()):
        if re.split(r"[._]", name)[0] not in groups:
            changed[name] = old.get(name, "not set"), new.get(name, "not set")
    return changed


def _equal_pairs(first: Iterable[Point], second: Iterable[Point]) -> list[Pair]:
    old, new = ({(point.curve_key, point.plan.dropped): point for point in points}
                for points in (first, second))  # fmt: skip
    return [(old[key], new[key]) for key in old.keys() & new.keys()]


def _near_pairs(first: Iterable[Point], second: Iterable[Point]) -> list[Pair]:
    """Return pairs of points of curves that differ in few settings, each curve used once."""
    sides: tuple[dict[str, list[Point]], ...] = (defaultdict(list), defaultdict(list))
    for side, points in zip(sides, (first, second), strict=True):
        for point in points:
            side[point.curve_key].append(point)
    candidates = [
        (len(differing_settings(*pairs[0])), pairs)
        for curve in sides[0].values()
        for other in sides[1].values()
        if (pairs := _pairs_of_curves(curve, other))
    ]
    chosen: list[Pair] = []
    taken: set[str] = set()
    for _, pairs in sorted(candidates, key=itemgetter(0)):
        keys = {point.curve_key for point in pairs[0]}
        if not keys & taken:
            chosen += pairs
            taken |= keys
    return chosen


def _pairs_of_curves(first: list[Point], second: list[Point]) -> list[Pair]:
    """Return the points of one model with as many layers removed that answer the same questions."""
    return [
        (point, other)
        for point in first
        for other in second
        if (point.model.name, point.num_dropped) == (other.model.name, other.num_dropped)
        and (_questions(point) & _questions(other) or not (_tasks(point) or _tasks(other)))
    ]


def _questions(point: Point) -> set[tuple[str, str, int, int]]:
    scores = (point.task_scores[task] for task in _tasks(point))
    return {(score.task, score.version, score.num_fewshot, score.num_samples) for score in scores}


def _tasks(point: Point) -> list[str]:
    return [
        score.task
        for score in point.task_scores.values()
        if score.parent is None and score.accuracy is not None
    ]


def _compare_task(first: Point, second: Point, task: str) -> PairedComparison | None:
    old, new = first.task_scores[task], second.task_scores[task]
    old_Q, new_Q = correctness(first, task), correctness(second, task)
    if old_Q is None or new_Q is None or old_Q.size != new_Q.size:
        return None
    if (old.version, old.num_fewshot) != (new.version, new.num_fewshot):
        return None
    return compare(old_Q, new_Q)


def _rank(point: Point) -> tuple[object, ...]:
    plan = point.plan
    return *point.curve[:4], point.seed, point.num_dropped, plan.dropped, point.curve_key
