"""Simulated curves for the search of the smallest model: margins with noise, the answer without."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from layerprune.search.bayesian_search import Margin

CHANCE = 0.25

KINDS = ("sigmoid", "straight", "step", "bumps", "collapse", "costs", "dip")


@dataclass(frozen=True)
class SimulatedCurve:
    """A curve from 0 to all but one removed layers."""

    kind: str
    unhealed: list[Margin]
    healed: list[Margin]
    dense: float
    """Measured margin of the dense model over chance."""
    keep: float
    kept_N: NDArray[np.float64]
    """Share of the margin that the better of the unhealed and healed model keeps, without noise."""
    answer: int
    """The largest n that meets the budget without noise."""


def simulated_curve(seed):
    """Draw 12 to 48 layers, 1,000 to 4,000 questions, and answers to them."""
    draws, kind = np.random.default_rng(seed), KINDS[seed % len(KINDS)]
    num_layers, keep = int(draws.choice([12, 24, 30, 32, 40, 48])), draws.choice([0.8, 0.9, 0.95])
    num_questions, dense = int(draws.choice([1000, 2000, 4000])), draws.uniform(0.2, 0.55)
    before_N, after_N = _shares(kind, draws, num_layers)
    hardness_Q = draws.standard_normal(num_questions)

    def marks(share):
        own_Q = draws.standard_normal(num_questions)
        return 0.8 * hardness_Q + 0.6 * own_Q < ndtri(CHANCE + dense * share)

    dense_Q = marks(1.0)
    unhealed = [_margin(dense_Q, dense_Q, keep)]
    unhealed += [_margin(marks(share), dense_Q, keep) for share in before_N[1:]]
    healed = [_margin(marks(share), dense_Q, keep) for share in after_N]
    kept_N = np.maximum(before_N, after_N)
    answer = int(np.nonzero(kept_N >= keep - 1e-12)[0][-1])
    dense_margin = float(dense_Q.mean()) - CHANCE
    return SimulatedCurve(kind, unhealed, healed, dense_margin, float(keep), kept_N, answer)


def _margin(marks_Q, dense_Q, keep):
    excess_Q = marks_Q - CHANCE - keep * (dense_Q - CHANCE)
    return Margin(float(excess_Q.mean()), (excess_Q - excess_Q.mean()) / excess_Q.size)


def _falling(n_N, centre, width):
    fall_N = 1 / (1 + np.exp((n_N - centre) / width))
    return fall_N / fall_N[0]


def _shares(kind, draws, num_layers):
    """Return the share of the dense margin that remains, unhealed and healed: [N], [N]."""
    n_N, ups_N = np.arange(num_layers), np.zeros(num_layers)
    centre = draws.uniform(0.05, 0.4) * num_layers
    later = min(0.9 * num_layers, centre + draws.uniform(0.05, 0.4) * num_layers)
    width = draws.uniform(0.005, 0.03) * num_layers
    before_N, after_N = _falling(n_N, centre, width), _falling(n_N, later, width)
    if kind == "straight":
        before_N = np.clip(1 - n_N / (1.5 * centre), 0, 1)
        after_N = np.clip(1 - n_N / (1.2 * later), 0, 1)
    elif kind == "step":
        before_N, after_N = 1.0 * (n_N < centre), 1.0 * (n_N < later)
    elif kind == "bumps":
        ups_N[1:] = draws.normal(0, 0.06, num_layers - 1)
        before_N = before_N + 8 * ups_N * before_N * (1 - before_N)
        after_N = after_N + 0.7 * ups_N
        after_N[1:] += draws.normal(0, 0.02, num_layers - 1)
    elif kind == "collapse":  # unhealed, the first layer costs everything, as with `deepest`
        before_N = np.where(n_N == 0, 1, draws.uniform(0, 0.3) * np.exp(-n_N / 2))
        after_N = np.clip(1 - (n_N / (1.5 * later)) ** 1.5, 0, 1)
    elif kind == "costs":  # healing costs something even where nothing was lost
        after_N = 0.97 * after_N
    elif kind == "dip":  # one cut is bad, and those beyond it are not
        n = draws.integers(1, max(2, int(later)))
        after_N[n] -= draws.uniform(0.05, 0.3)
        before_N[n] -= draws.uniform(0, 0.4)
    before_N = np.clip(before_N, 0, 1.02)
    return before_N, np.clip(np.maximum(after_N, 0.97 * before_N), 0, 1.02)
