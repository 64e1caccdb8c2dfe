"""The questions that a point answers correctly, one by one, for groups of tasks too."""

from collections.abc import Sequence

import numpy as np

from layerprune.analysis.statistics import Correctness
from layerprune.record.point import Point

ROUNDING = 1e-6
"""Largest difference between the mean of single answers and the accuracy in the record."""


def correctness(point: Point, task: str) -> Correctness | None:
    """Return 1 for each question of a task that was answered correctly, else 0: [Q].

    A group's questions are its tasks' questions, one task after the other. None if the record lacks
    some of them, or if its accuracy isn't their mean: some groups weigh their tasks equally,
    whatever their numbers of questions.
    """
    digits = _digits(point, task)
    accuracy = point.accuracy(task)
    if digits is None or accuracy is None or len(digits) != point.task_scores[task].num_samples:
        return None
    correct_Q = np.frombuffer(digits.encode(), dtype=np.uint8) - ord("0")
    agrees = correct_Q.size and abs(correct_Q.mean() - accuracy.value) < ROUNDING
    return correct_Q if agrees else None


def stacked_correctness(points: Sequence[Point], task: str) -> Correctness | None:
    """Return the correctness of several points on the same questions: [P, Q]; None if one lacks."""
    rows = [row for point in points if (row := correctness(point, task)) is not None]
    if len(rows) < len(points) or len({row.size for row in rows}) != 1:
        return None
    return np.stack(rows)


def _digits(point: Point, task: str) -> str | None:
    own = point.task_scores[task].correct
    if own is not None:
        return own
    parts = [
        _digits(point, score.task) for score in point.task_scores.values() if score.parent == task
    ]
    if not parts or None in parts:
        return None
    return "".join(digits for digits in parts if digits is not None)
