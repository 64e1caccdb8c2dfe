"""Which questions a point answers rightly, one by one, for a group of tasks too."""

from collections.abc import Sequence

import numpy as np

from layerprune.report.entry import Entry
from layerprune.report.statistics import Marks

ROUNDING = 1e-6
"""By which a mean of answers may miss the accuracy in the record."""


def marks_of(entry: Entry, task: str) -> Marks | None:
    """1 for each question of a task that was answered rightly, else 0: [Q].

    A group's questions are those of its tasks, one task after the other. None where the record does
    not have them all, or where its accuracy is not their mean: of some groups each task counts
    alike, however many questions it has.
    """
    digits = _digits(entry, task)
    accuracy = entry.accuracy(task)
    if digits is None or accuracy is None or len(digits) != entry.answers[task].num_samples:
        return None
    marks = np.frombuffer(digits.encode(), dtype=np.uint8) - ord("0")
    return marks if marks.size and abs(marks.mean() - accuracy.value) < ROUNDING else None


def stacked(entries: Sequence[Entry], task: str) -> Marks | None:
    """The answers of several points to the same questions: [P, Q]; None where one lacks them."""
    rows = [marks_of(entry, task) for entry in entries]
    known = [row for row in rows if row is not None]
    if len(known) < len(rows) or len({row.size for row in known}) != 1:
        return None
    return np.stack(known)


def _digits(entry: Entry, task: str) -> str | None:
    own = entry.answers[task].correct
    if own is not None:
        return own
    below = [_digits(entry, name) for name, of in entry.answers.items() if of.parent == task]
    known = [digits for digits in below if digits is not None]
    return "".join(known) if known and len(known) == len(below) else None
