"""The share of the dense model's margin over chance that a pruned model keeps.

Letters: Q questions of a task.
"""

from statistics import NormalDist

import numpy as np

from layerprune.analysis.correctness import correctness
from layerprune.analysis.statistics import LEVEL, Floats, Interval
from layerprune.errors import UserError
from layerprune.record.point import Point
from layerprune.search.bayesian_search import Margin
from layerprune.search.result import KeptMargin

HALF_WIDTH = NormalDist().inv_cdf((1 + LEVEL) / 2)
"""Standard errors on either side of an interval's centre."""


class DenseBaseline:
    """Compares points with the dense one, question by question.

    Tasks have equal weights, whatever their numbers of questions.
    """

    def __init__(self, dense: Point) -> None:
        """Raise `UserError` where the dense model has no margin, or none that can be measured."""
        self._chances = {
            task: answers.chance_accuracy
            for task, answers in dense.task_scores.items()
            if answers.parent is None
        }
        self._dense = self._above_chance(dense)
        self.margin = float(np.mean([above_Q.mean() for above_Q in self._dense]))
        """The dense model's margin: accuracy minus chance."""
        error = HALF_WIDTH * self.excess(dense, keep=0.0).stderr
        if self.margin <= error:
            raise UserError(
                f"fit.keep: the dense model is {100 * self.margin:.1f} points above chance on "
                f"{', '.join(self._chances)}, plus or minus {100 * error:.1f}, which is not "
                "significant: use easier tasks or more questions."
            )

    def excess(self, point: Point, keep: float) -> Margin:
        """Return a point's margin over chance minus `keep` times the dense one."""
        values, errors = [], []
        for above_Q, dense_Q in zip(self._above_chance(point), self._dense, strict=True):
            excess_Q = above_Q - keep * dense_Q
            values.append(excess_Q.mean())
            errors.append((excess_Q - excess_Q.mean()) / (excess_Q.size * len(self._dense)))
        return Margin(float(np.mean(values)), np.concatenate(errors))

    def kept(self, point: Point) -> KeptMargin:
        """Return the share that a point keeps, with the interval of a ratio of paired means."""
        share = self.excess(point, keep=0.0).value / self.margin
        error = HALF_WIDTH * self.excess(point, keep=share).stderr / self.margin
        return KeptMargin(share, Interval(share - error, share + error))

    def _above_chance(self, point: Point) -> list[Floats]:
        """Return for each task the questions' marks, 0 or 1, minus chance: [Q]."""
        above = []
        for task, chance in self._chances.items():
            marks_Q = correctness(point, task)
            if marks_Q is None or chance is None:
                missing = "accuracy of single questions" if marks_Q is None else "chance accuracy"
                raise UserError(f"fit.keep: {task} has no {missing}: use other tasks.")
            above.append(marks_Q.astype(float) - chance)
        return above
