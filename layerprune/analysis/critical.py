"""The decline of each curve on each task, and with it the critical fraction."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layerprune.analysis.correctness import stacked_correctness
from layerprune.analysis.curves import GIVEN, JOINT, Curve, Task
from layerprune.analysis.statistics import Decline, Estimate, decline, dips, mean_interval, wilson
from layerprune.record.point import Point

RETAINED = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Fractions at which the share of the dense margin that is left is reported."""

MIN_POINTS = 3
"""Points that a curve needs, the dense model included."""

NOT_SHARED = ("seed", "prune.count", "prune.layers")
"""Settings in which the points of a curve, or of its repeats, may differ."""


@dataclass(frozen=True)
class CurveDecline:
    """One curve on one task; curves that differ only in their seed are one."""

    name: str
    """The curve's label, without the seed where there are several."""
    curve: Curve
    """The first of several."""
    num_seeds: int
    task: str
    num_questions: int
    num_points: int
    """With the dense model; of several seeds, the points that all of them have."""
    farthest: float
    """The greatest fraction among the points."""
    dense: Estimate | None
    """Accuracy of the dense model, not healed: Wilson's interval, or the bootstrap's over seeds."""
    chance: float | None
    majority: float | None
    decline: Decline | None
    dips: tuple[int, ...]
    """Numbers of layers removed with fewer right answers than some greater number, beyond noise."""
    why: str
    """Why there is no decline; empty if there is one."""


def curve_declines(curves: Sequence[Curve], tasks: Sequence[Task]) -> list[CurveDecline]:
    """Return the decline of every curve on every task that is no subtask, repeats together."""
    return [
        _curve_decline(repeats, task.name)
        for task in tasks
        if task.parent is None
        for repeats in _repeats(curves)
        if any(curve.scored(task.name) for curve in repeats)
    ]


def named_dips(curves: Sequence[Curve], task: str) -> dict[str, tuple[int, ...]]:
    """Return the dips of each curve that has any, by its label, without the dense model."""
    single = [
        repeats[0]
        for repeats in _repeats(curves)
        if len(repeats) == 1 and repeats[0].first.plan.strategy != GIVEN
    ]
    dips_of = {curve.label: tuple(filter(None, _dips(curve, task))) for curve in single}
    return {label: counts for label, counts in dips_of.items() if counts}


def _dips(curve: Curve, task: str) -> tuple[int, ...]:
    points = _points(curve, task)
    correct_PQ = stacked_correctness(list(points.values()), task)
    if correct_PQ is None:
        return ()
    counts = list(points)
    return tuple(counts[index] for index in dips(correct_PQ))


def _repeats(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Group the curves that differ only in their seed."""
    groups: dict[tuple[tuple[str, str], ...], list[Curve]] = defaultdict(list)
    for curve in curves:
        settings = curve.first.settings.items()
        key = tuple(sorted(item for item in settings if item[0] not in NOT_SHARED))
        groups[*key, ("strategy", curve.first.plan.strategy)].append(curve)
    return list(groups.values())


def _curve_decline(repeats: Sequence[Curve], task: str) -> CurveDecline:
    curve = repeats[0]
    points = next(points for repeat in repeats if (points := repeat.scored(task)))
    evaluated = points[0].task_scores[task]
    lines = [_points(repeat, task) for repeat in repeats]
    shared = [count for count in lines[0] if all(count in line for line in lines)]
    rows = [[line[count] for count in shared] for line in lines]
    fractions = np.array([point.plan.fraction for point in rows[0]])
    shares = [[point.correct_share(task) for point in row] for row in rows]
    accuracies = np.array(shares).mean(axis=0)
    correct_SPQ = None
    stacks = [stacked_correctness(row, task) for row in rows] if shared else []
    complete = [stack for stack in stacks if stack is not None]
    if len(complete) == len(rows) and len({stack.shape for stack in complete}) == 1:
        correct_SPQ = np.stack(complete)

    dense = None
    if 0 in shared:
        if correct_SPQ is None or len({row[0] for row in shares}) == 1:
            total = evaluated.num_samples
            interval = wilson(round(accuracies[0] * total), total)
        else:
            interval = mean_interval(correct_SPQ[:, 0])
        dense = Estimate(float(accuracies[0]), interval)
    chance = evaluated.chance_accuracy
    why = _why(curve, dense, chance, shared)
    seed = f"seed {curve.first.seed}"
    parts = [part for part in curve.label.split(JOINT) if len(repeats) == 1 or part != seed]
    return CurveDecline(
        name=JOINT.join(parts),
        curve=curve,
        num_seeds=len(repeats),
        task=task,
        num_questions=evaluated.num_samples,
        num_points=len(shared),
        farthest=float(fractions.max(initial=0.0)),
        dense=dense,
        chance=chance,
        majority=evaluated.majority,
        decline=None
        if why or chance is None
        else decline(
            fractions, accuracies, chance, RETAINED, curve.first.model.num_layers, correct_SPQ
        ),
        dips=_dips(curve, task) if len(repeats) == 1 else (),
        why=why,
    )


def _points(curve: Curve, task: str) -> dict[int, Point]:
    """Return the points with an accuracy by number of layers, the un-healed dense model first."""
    dense = [] if curve.dense is None else [curve.dense]
    pruned = [point for point in curve.scored(task) if point.plan.dropped]
    return {point.num_dropped: point for point in (*dense, *pruned) if point.accuracy(task)}


def _why(curve: Curve, dense: Estimate | None, chance: float | None, shared: Sequence[int]) -> str:
    if curve.first.plan.strategy == GIVEN:
        return "its layers were named one by one: its points do not follow one strategy"
    if dense is None:
        return "there is no dense model to compare with: add heal=none with prune.fraction=0"
    if chance is None:
        return "chance accuracy is not defined for its questions"
    if dense.interval is not None and dense.interval.low <= chance:
        return "the dense model is not above chance beyond noise"
    if len(shared) < MIN_POINTS:
        return f"{len(shared)} points with the dense model are no curve"
    return ""
