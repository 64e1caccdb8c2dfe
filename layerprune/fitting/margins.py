"""What a cut model keeps of the dense one's margin over chance, with the noise of the questions.

Letters: P points, Q questions of a task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from layerprune.errors import UserError
from layerprune.fitting.search import Margin
from layerprune.report.entry import Entry
from layerprune.report.marks import marks_of
from layerprune.report.statistics import LEVEL, Floats, Interval

ENDS = NormalDist().inv_cdf((1 + LEVEL) / 2)
"""Of an interval, in standard errors."""


@dataclass(frozen=True)
class Kept:
    """The share of the dense margin that a model keeps."""

    share: float
    interval: Interval


class Margins:
    """Holds points against the dense one, question by question.

    Several tasks count alike, whatever their numbers of questions.
    """

    def __init__(self, dense: Entry) -> None:
        """Raise `UserError` where there is no margin to keep, or it cannot be told."""
        self.tasks = [task for task, of in dense.answers.items() if of.parent is None]
        self._chances = [self._chance(dense, task) for task in self.tasks]
        self._dense = self._over_chance(dense)
        self.dense = float(np.mean([over_Q.mean() for over_Q in self._dense]))
        """The dense model's margin: accuracy over chance, in shares of the questions."""
        error = self.margin(dense, keep=0.0).stderr
        if self.dense <= ENDS * error:
            raise UserError(
                f"fit.keep: the dense model is {100 * self.dense:.1f} points over chance on "
                f"{', '.join(self.tasks)}, plus or minus {100 * ENDS * error:.1f}: there is "
                "nothing to keep. Ask questions that it can answer, or more of them."
            )

    def margin(self, entry: Entry, keep: float) -> Margin:
        """By how much a point has more over chance than `keep` of the dense one's."""
        values, errors = [], []
        for over_Q, dense_Q in zip(self._over_chance(entry), self._dense, strict=True):
            more_Q = over_Q - keep * dense_Q
            values.append(more_Q.mean())
            errors.append((more_Q - more_Q.mean()) / (more_Q.size * len(self.tasks)))
        return Margin(float(np.mean(values)), np.concatenate(errors))

    def kept(self, entry: Entry) -> Kept:
        """The share that a point keeps; its interval is that of a ratio of paired means."""
        share = self.margin(entry, keep=0.0).value / self.dense
        half = ENDS * self.margin(entry, keep=share).stderr / self.dense
        return Kept(share, Interval(share - half, share + half))

    def _over_chance(self, entry: Entry) -> list[Floats]:
        """For each task 1 or 0 a question, less chance: [Q]."""
        found = []
        for task, chance in zip(self.tasks, self._chances, strict=True):
            marks = marks_of(entry, task)
            if marks is None:
                raise UserError(
                    f"fit.keep: {task} does not count each of its questions as right or wrong. "
                    "Ask tasks that have an accuracy."
                )
            found.append(marks.astype(float) - chance)
        return found

    def _chance(self, dense: Entry, task: str) -> float:
        answers = dense.answers[task]
        if answers.accuracy is None or answers.chance is None:
            raise UserError(
                f"fit.keep: {task} has no accuracy, or guessing has none. Ask other tasks."
            )
        return answers.chance


def accuracies(entry: Entry, tasks: Sequence[str]) -> dict[str, tuple[float, Interval]]:
    """The accuracy on each task, with Wilson's interval."""
    from layerprune.report.statistics import wilson

    found = {}
    for task in tasks:
        right, total = entry.right(task), entry.answers[task].num_samples
        found[task] = right, wilson(round(right * total), total)
    return found
