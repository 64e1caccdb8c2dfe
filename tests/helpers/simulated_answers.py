"""Simulated models: their answers along a curve of which the true accuracies are known."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from layerprune.analysis.statistics import (
    HALF,
    LOWER,
    UPPER,
    Correctness,
    Floats,
    crossing,
    decline,
    monotone,
)

CHANCE = 0.25

AT = 0.2
"""The fraction at which the margin that is left is compared."""


@dataclass(frozen=True)
class SimulatedModel:
    """A model that knows a share of the answers, and loses each at a different fraction."""

    num_layers: int
    known: float
    centre: float
    width: float
    """Of the normal distribution of these fractions."""
    dip: int | None = None
    """A number of removed layers with which it loses 40 % of the answers that it has left."""

    @property
    def depths(self) -> NDArray[np.int64]:
        """Every number of layers that can be removed."""
        return np.arange(self.num_layers)

    def _lost_in_dip(self) -> Floats:
        return np.where(self.depths == self.dip, 0.4, 0.0)

    def true_accuracies(self) -> Floats:
        """Return the accuracy of each depth without noise: [P]."""
        knows_P = self.known * norm.sf(self.depths / self.num_layers, self.centre, self.width)
        return CHANCE + (1 - CHANCE) * knows_P * (1 - self._lost_in_dip())

    def answers(
        self, draws: np.random.Generator, num_questions: int, sticky: float = 0.5
    ) -> Correctness:
        """Draw the right answers of each depth: [P, Q]; what it does not know, it guesses.

        A share `sticky` of the guesses is the same at all depths, as it is with real models.
        """
        shape = self.num_layers, num_questions
        lost_Q = draws.normal(self.centre, self.width, num_questions)
        known_Q = draws.random(num_questions) < self.known
        same_Q = draws.random(num_questions) < CHANCE
        guesses_PQ = np.where(draws.random(shape) < sticky, same_Q, draws.random(shape) < CHANCE)
        knows_PQ = known_Q & (lost_Q > self.depths[:, None] / self.num_layers)
        knows_PQ &= draws.random(shape) >= self._lost_in_dip()[:, None]
        return np.where(knows_PQ, True, guesses_PQ).astype(np.uint8)

    def truth(self) -> dict[str, float]:
        """Return critical fraction, sharpness and margin left at `AT` on all depths, no noise."""
        accuracies_P = self.true_accuracies()
        fractions_P, fitted_1P = self.depths / self.num_layers, monotone(accuracies_P[None])
        margin = accuracies_P[0] - CHANCE

        def reached(share: float) -> float:
            level_1 = np.array([CHANCE + share * margin])
            return crossing(fractions_P, fitted_1P, level_1, 1 / self.num_layers).value_B[0]

        left = (np.interp(AT, fractions_P, fitted_1P[0]) - CHANCE) / margin
        sharpness = reached(LOWER) - reached(UPPER)
        return {"critical": reached(HALF), "sharpness": sharpness, "left": left}


def coverage(
    model: SimulatedModel, num_questions: int, num_points: int, num_draws: int, seed: int = 7
) -> dict[str, float]:
    """Return the share of intervals that hold the truth, on random grids of `num_points` depths.

    `same answers` is the share that holds the critical fraction that all depths give with the same
    answers; `length` is the median length of an interval of the critical fraction.
    """
    draws = np.random.default_rng(seed)
    true, held = model.truth(), dict.fromkeys(("critical", "same answers", "sharpness", "left"), 0)
    lengths = []
    for _ in range(num_draws):
        marks_PQ = model.answers(draws, num_questions)
        pruned = draws.choice(model.depths[1:], num_points - 1, replace=False)
        grid = np.array([0, *np.sort(pruned)])
        all_depths, found = (
            decline(
                depths / model.num_layers, marks_PQ[depths].mean(axis=1), CHANCE, (AT,),
                model.num_layers, correct,
            )
            for depths, correct in ((model.depths, None), (grid, marks_PQ[None, grid]))
        )  # fmt: skip
        lengths.append(found.critical.interval.high - found.critical.interval.low)
        values = {
            "critical": (found.critical, true["critical"]),
            "same answers": (found.critical, all_depths.critical.value),
            "sharpness": (found.sharpness, true["sharpness"]),
            "left": (found.retained[0], true["left"]),
        }
        for name, (estimate, value) in values.items():
            # The analysis makes no claim beyond the last point.
            interval = None if estimate is None else estimate.interval
            held[name] += interval is None or interval.low - 1e-9 <= value <= interval.high + 1e-9
    shares = {name: count / num_draws for name, count in held.items()}
    return {**shares, "length": float(np.median(lengths))}
