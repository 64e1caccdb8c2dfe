"""Bayesian search for the most layers that can be removed within a budget, healing few candidates.

A candidate is a number n of removed layers. Its margin says by how much the model beats the budget.
The margins of all unhealed cuts are known. Healing a candidate takes minutes to hours, and its
margin has the sampling noise of the questions.

How it works:
1. The prior holds many falls: curves that are flat, cross the budget after some n, and are more or
   less steep. At first each n is as likely as its neighbour to be the largest within the budget.
2. No fall lies below the unhealed curve, and a Gaussian process adds bumps to each.
3. Measured candidates reweight the falls by their distance in units of noise.
4. The next candidate halves the posterior of the largest n within the budget: bisection for noisy
   answers (Horstein, Sequential transmission using noiseless feedback, 1963). A candidate that
   misses the budget makes larger ones less likely, not impossible: it may be a dip or bad luck.

Letters: N numbers of removed layers, from 0 to all but one; M healed candidates; F falls; B drawn
curves; Q questions. Draws use the fixed `SEED`, so that the search is reproducible.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]

DRAWS = 1000
SEED = 0

CROSSINGS = (0.25, 0.75)
"""Layers between the largest n within the budget and the point where a fall crosses it."""

WIDTHS = 6
"""Number of fall widths, from a tenth of a layer to a quarter of all layers."""

LEVELS = (0.96, 0.98, 1.0)
"""Share of the dense margin before a fall: healing itself may cost some."""

BUMPS = {0.01: 0.45, 0.03: 0.45, 0.1: 0.1}
"""Standard deviations of the bumps, as shares of the dense margin, with prior probabilities."""

REACH = 0.5
"""Length scale of the bumps, in layers."""

MAX_MISS = 0.2
"""Margins below minus this share of the dense margin are clipped to it, as a fall need not end at
the level where a real curve ends."""

HALVES = 1 / 3
"""The prior of n halves with each such share of all layers beyond the unhealed curve."""

PAST_MISS = 2
"""If a single candidate has missed the budget, one so many layers beyond it is healed at last."""

DONE = 0.02
"""The search ends when the largest n within the budget is an unhealed candidate with at most this
probability."""


@dataclass(frozen=True)
class Margin:
    """Accuracy by which a model beats its budget; negative if it misses it."""

    value: float
    errors_Q: Floats
    """Contribution of each question to the error of `value`. The dot product of two margins' is the
    covariance of their errors, since both models answer the same questions."""

    @property
    def stderr(self) -> float:
        """Standard error of `value`."""
        return float(np.sqrt(self.errors_Q @ self.errors_Q))


@dataclass(frozen=True)
class Posterior:
    """Posterior of the healed curve."""

    meets_N: Floats
    """Probability that n, healed, meets the budget."""
    largest_N: Floats
    """Probability that n is the largest that meets it, healed or not."""
    answer: int
    """The largest n with `meets_N` of at least 0.5 among healed candidates, or that meets the
    budget unhealed."""
    candidate: int | None
    """The n to heal next; None where another would hardly change the answer."""

    @property
    def between(self) -> tuple[int, int]:
        """95 % interval of the largest n that meets the budget, both ends included."""
        low, high = np.searchsorted(np.cumsum(self.largest_N), (0.025, 0.975))
        return int(low), min(int(high), len(self.largest_N) - 1)


def max_healings(num_layers: int) -> int:
    """Return how many candidates a search heals at most: one more than bisection needs."""
    return math.ceil(math.log2(num_layers)) + 1


def unhealed_answer(unhealed: Sequence[Margin]) -> int:
    """Return the largest n that meets the budget without healing."""
    return max((n for n, margin in enumerate(unhealed) if margin.value >= 0), default=0)


def search(
    unhealed: Sequence[Margin],
    dense: float,
    keep: float,
    heal: Callable[[int], Margin],
    on_posterior: Callable[[Posterior, Mapping[int, Margin]], None] = lambda *_: None,
    healed_before: Mapping[int, Margin] | None = None,
) -> tuple[Posterior, dict[int, Margin]]:
    """Return the final posterior and the margins of the healed candidates, in the order healed.

    `heal` heals a candidate and returns its margin. `on_posterior` is called before each. The
    candidates of `healed_before` count toward `max_healings`. Equal margins lead to equal
    candidates, so that a search that was stopped resumes on the same path.
    """
    healed = dict(healed_before or {})
    while True:
        posterior = posterior_of(unhealed, healed, dense, keep)
        on_posterior(posterior, healed)
        if posterior.candidate is None or len(healed) >= max_healings(len(unhealed)):
            return posterior, healed
        healed[posterior.candidate] = heal(posterior.candidate)


def posterior_of(
    unhealed: Sequence[Margin], healed: Mapping[int, Margin], dense: float, keep: float
) -> Posterior:
    """Return the posterior given all unhealed margins and the healed candidates' margins.

    `unhealed` has one margin for each n from 0. `dense` is the dense model's margin over chance,
    above 0, and `keep` the share of it that the budget requires.
    """
    count, num_questions = len(unhealed), unhealed[0].errors_Q.size
    floor = unhealed_answer(unhealed)
    healed_M = np.array(sorted(healed), dtype=int)
    # From here on, margins are shares of the dense one.
    values_M = np.maximum([healed[n].value / dense for n in healed_M], -MAX_MISS)
    errors_MQ = np.array([healed[n].errors_Q for n in healed_M])
    errors_MQ = errors_MQ.reshape(len(healed_M), num_questions) / dense
    falls_FN = np.maximum(
        _falls(count, keep) - keep,
        np.maximum([margin.value / dense for margin in unhealed], -MAX_MISS),
    )
    distance_NN = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    kernel_NN = np.exp(-0.5 * (distance_NN / REACH) ** 2)
    residuals_FM = values_M - falls_FN[:, healed_M]
    log_prior_F = _log_prior(_largest(falls_FN >= 0, floor), floor)

    draws = np.random.default_rng(SEED)
    parts = []
    for bump, probability in BUMPS.items():
        # The Gaussian process of the bumps, conditioned on the healed margins.
        prior_NN = bump**2 * kernel_NN
        measured_MM = prior_NN[np.ix_(healed_M, healed_M)] + errors_MQ @ errors_MQ.T
        solved_MF = np.linalg.solve(measured_MM, residuals_FM.T)
        log_likelihood_F = -0.5 * (
            np.sum(residuals_FM.T * solved_MF, axis=0) + np.linalg.slogdet(measured_MM)[1]
        )
        mean_FN = falls_FN + solved_MF.T @ prior_NN[healed_M]
        covariance_NN = prior_NN - prior_NN[:, healed_M] @ np.linalg.solve(
            measured_MM, prior_NN[healed_M]
        )
        parts.append(
            (log_likelihood_F + log_prior_F + math.log(probability), mean_FN, covariance_NN)
        )
    highest = max(log_F.max() for log_F, _, _ in parts)
    weights = [np.exp(log_F - highest) for log_F, _, _ in parts]
    total = sum(float(weight_F.sum()) for weight_F in weights)
    meets_N, largest_N = np.zeros(count), np.zeros(count)
    for weight_F, (_, mean_FN, covariance_NN) in zip(weights, parts, strict=True):
        share_F = weight_F / total
        deviation_N = np.sqrt(np.maximum(np.diag(covariance_NN), 1e-12))
        meets_N += share_F @ ndtr(mean_FN / deviation_N)
        largest_N += share_F.sum() * _drawn_largest(share_F, mean_FN, covariance_NN, floor, draws)
    answer = max([floor, *(int(n) for n in healed_M if meets_N[n] >= 0.5)])
    return Posterior(meets_N, largest_N, answer, _next(largest_N, floor, answer, healed))


@lru_cache(maxsize=2)
def _falls(count: int, keep: float) -> Floats:
    """Return falls of the remaining share, crossing `keep` beyond each n but the last: [F, N].

    A fall is `level * (1 + a) / (1 + a * exp(n / width))`; `a` places its crossing.
    """
    n_N = np.arange(count)
    falls = [np.exp(-n_N / 0.3)]  # the first layer already costs everything
    for last in range(1, count):
        for beyond in CROSSINGS:
            for width in np.geomspace(0.1, count / 4, WIDTHS):
                for level in LEVELS:
                    crossing, share = (last + beyond) / width, keep / level
                    if share >= 1 or crossing + math.log(share) < 0.01:
                        continue  # so wide a fall crosses earlier
                    log_a = math.log1p(-share) - crossing - math.log(share - math.exp(-crossing))
                    log_N = np.logaddexp(0, log_a) - np.logaddexp(0, log_a + n_N / width)
                    falls.append(level * np.exp(log_N))
    return np.stack(falls)


def _log_prior(largest_F: NDArray[np.int64], floor: int) -> Floats:
    """Return the log prior of falls, by the largest n that each keeps within the budget: [F]."""
    falls_N = np.bincount(largest_F)
    beyond_F = (largest_F - floor) / (HALVES * (largest_F.max() + 1))
    return np.asarray(-np.log(falls_N[largest_F]) - math.log(2) * beyond_F)


def _largest(meets_BN: NDArray[np.bool_], floor: int) -> NDArray[np.int64]:
    """Return the largest n of each curve that meets the budget, at least `floor`: [B]."""
    largest_B = meets_BN.shape[1] - 1 - np.argmax(meets_BN[:, ::-1], axis=1)
    return np.where(meets_BN.any(axis=1), np.maximum(largest_B, floor), floor)


def _drawn_largest(
    share_F: Floats,
    mean_FN: Floats,
    covariance_NN: Floats,
    floor: int,
    draws: np.random.Generator,
) -> Floats:
    """Return the probability of each n to be the largest that meets the budget: [N]."""
    values, vectors = np.linalg.eigh(covariance_NN)
    root_NN = vectors * np.sqrt(np.maximum(values, 0.0))
    fall_B = draws.choice(len(share_F), DRAWS, p=share_F / share_F.sum())
    bumps_BN = draws.standard_normal((DRAWS, len(values))) @ root_NN.T
    largest_B = _largest(mean_FN[fall_B] + bumps_BN >= 0, floor)
    return np.bincount(largest_B, minlength=len(values)) / DRAWS


def _next(largest_N: Floats, floor: int, answer: int, healed: Mapping[int, Margin]) -> int | None:
    """Return the unhealed candidate that halves the posterior best, or None if it hardly matters.

    Before the end, if one candidate alone has missed the budget, one beyond it shows whether that
    one is a dip.
    """
    remaining = [n for n in range(floor + 1, len(largest_N)) if n not in healed]
    if sum(largest_N[n] for n in remaining) > DONE:
        at_least_N = np.cumsum(largest_N[::-1])[::-1]
        return min(remaining, key=lambda n: (abs(at_least_N[n] - 0.5), -n))
    missed = [n for n in healed if n > answer]
    if len(missed) == 1 and missed[0] + PAST_MISS < len(largest_N):
        return missed[0] + PAST_MISS
    return None
