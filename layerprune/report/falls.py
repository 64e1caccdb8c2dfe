"""How each curve falls on each task: where half of the dense model's margin over chance is gone."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from layerprune.report.curves import JOINT, NAMED, Curve, Task
from layerprune.report.entry import Answers, Entry
from layerprune.report.marks import stacked
from layerprune.report.statistics import Estimate, Fall, fall, mean_interval, wilson

RETAINED = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Fractions at which it is told how much of the dense margin is left."""

FEWEST = 3
"""Points of a curve, the dense model one of them."""

OF_ITS_OWN = ("seed", "prune.count", "prune.layers")
"""Settings in which points differ that are repeats of one another, or of one curve."""


@dataclass(frozen=True)
class Fallen:
    """One curve on one task; curves that differ in nothing but their seed are one."""

    name: str
    """The curve's, without the seeds where there are several."""
    curve: Curve
    """The first of them."""
    num_seeds: int
    task: str
    num_questions: int
    num_points: int
    """With the dense model; of several seeds, those that all of them have."""
    farthest: float
    """The greatest fraction among the points."""
    dense: Estimate | None
    """Accuracy of the whole model, not healed: Wilson's interval, or the bootstrap's over seeds."""
    chance: float | None
    majority: float | None
    fall: Fall | None
    why: str
    """Why there is no fall to be told; else nothing."""


def make_falls(curves: Sequence[Curve], tasks: Sequence[Task]) -> list[Fallen]:
    """Every curve on every task that is not part of another, repeats put together."""
    heads = [task.name for task in tasks if task.parent is None]
    return [
        _fallen(repeats, task)
        for task in heads
        for repeats in _repeats(curves)
        if any(_answers(entry, task) for curve in repeats for entry in curve.entries)
    ]


def _repeats(curves: Sequence[Curve]) -> list[list[Curve]]:
    together: dict[tuple[tuple[str, str], ...], list[Curve]] = defaultdict(list)
    for curve in curves:
        settings = curve.first.settings.items()
        key = tuple(sorted(item for item in settings if item[0] not in OF_ITS_OWN))
        together[*key, ("strategy", curve.first.strategy)].append(curve)
    return list(together.values())


def _fallen(repeats: Sequence[Curve], task: str) -> Fallen:
    curve = repeats[0]
    lines = [_points(each, task) for each in repeats]
    shared = [count for count in lines[0] if all(count in line for line in lines)]
    rows = [[line[count] for count in shared] for line in lines]
    fractions = np.array([entry.fraction for entry in rows[0]])
    known = [found for found in (stacked(row, task) for row in rows) if found is not None]
    whole = len(known) == len(rows) and len({found.shape for found in known}) == 1
    marks_SPQ = np.stack(known) if whole and shared else None
    accuracies = np.array([[entry.right(task) for entry in row] for row in rows]).mean(axis=0)

    asked = next(
        found for entry in chain(*(each.entries for each in repeats))
        if (found := _answers(entry, task))
    )  # fmt: skip
    dense = None
    if 0 in shared:
        alike = len({row[0].right(task) for row in rows}) == 1
        if alike or marks_SPQ is None:
            interval = wilson(round(accuracies[0] * asked.num_samples), asked.num_samples)
        else:
            interval = mean_interval(marks_SPQ[:, 0])
        dense = Estimate(float(accuracies[0]), interval)
    why = _why(curve, dense, asked.chance, shared)
    told = None
    if not why and asked.chance is not None:
        told = fall(fractions, accuracies, asked.chance, RETAINED, marks_SPQ)
    seeds = f"seed {curve.first.seed}"
    parts = [part for part in curve.label.split(JOINT) if len(repeats) == 1 or part != seeds]
    return Fallen(
        name=JOINT.join(parts),
        curve=curve,
        num_seeds=len(repeats),
        task=task,
        num_questions=asked.num_samples,
        num_points=len(shared),
        farthest=float(fractions.max(initial=0.0)),
        dense=dense,
        chance=asked.chance,
        majority=asked.majority,
        fall=told,
        why=why,
    )


def _points(curve: Curve, task: str) -> dict[int, Entry]:
    """A curve's points on a task by their number of layers, first the dense model, not healed."""
    dense = [] if curve.dense is None else [curve.dense]
    cut = [entry for entry in curve.entries if entry.dropped]
    return {entry.num_dropped: entry for entry in (*dense, *cut) if _answers(entry, task)}


def _why(curve: Curve, dense: Estimate | None, chance: float | None, shared: Sequence[int]) -> str:
    if curve.first.strategy == NAMED:
        return "its layers were named one by one, its points are not steps of one way"
    if dense is None:
        return "there is no dense model to compare with: it takes heal=none with fraction 0"
    if chance is None:
        return "guessing evenly is not defined for its questions"
    if dense.interval is not None and dense.interval.low <= chance:
        return "the dense model is not above chance beyond noise"
    if len(shared) < FEWEST:
        return f"{len(shared)} points with the dense model are no curve"
    return ""


def _answers(entry: Entry, task: str) -> Answers | None:
    answers = entry.answers.get(task)
    return answers if answers is not None and answers.accuracy is not None else None
