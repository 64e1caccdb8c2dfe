"""What the answers to single questions say, and how surely: intervals, comparisons, fractions.

Shapes: S repeats (curves that differ in nothing but their seed), P points of a curve, Q questions,
B resamples. Fractions are shares of a model's layers, accuracies shares of questions. Everything
here is deterministic: resamples are drawn by `SEED`, and the same number of questions is resampled
in the same way wherever it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Of every interval: how often it is meant to hold the true value."""

RESAMPLES = 2000
"""Of the questions, for each bootstrap interval."""

SEED = 0
"""Of all draws."""

CHUNK = 4_000_000
"""Drawn questions that are held at once, but for a byte each."""

HALF = 0.5
"""Of the dense margin: the critical fraction is where a curve falls through it."""

UPPER, LOWER = 0.75, 0.25
"""Of the dense margin: the sharpness is the way from the one to the other."""

Floats = NDArray[np.float64]
Marks = NDArray[np.uint8]
"""1 for a question that was answered rightly, else 0; questions are the last axis."""


@dataclass(frozen=True)
class Interval:
    """Between which values the true one is meant to be; `math.inf` where no end can be told."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A number, and its interval where the answers to single questions are known."""

    value: float
    """`math.inf` for a fraction that lies beyond every point."""
    interval: Interval | None


@dataclass(frozen=True)
class Comparison:
    """Two models on the same questions."""

    difference: float
    """Accuracy of the second less that of the first."""
    interval: Interval
    only_first: int
    """Questions that the first alone answers rightly."""
    only_second: int
    p: float
    """McNemar's, exact and two-sided: how likely so uneven a share of `only_first` and
    `only_second` is where both models are equally good."""


@dataclass(frozen=True)
class Fall:
    """How a curve loses the dense model's margin over chance."""

    critical: Estimate
    """The fraction at which half of the margin is left."""
    sharpness: Estimate
    """The fraction that it takes to fall from three quarters of the margin to a quarter."""
    retained: tuple[Estimate | None, ...]
    """The share of the margin that is left at each fraction asked for; None beyond the points."""


def wilson(right: int, total: int) -> Interval:
    """Wilson's interval of a share: `right` of `total` questions.

    Wilson, Probable inference, the law of succession, and statistical inference, 1927. The normal
    quantile is of `scipy.special`: `scipy.stats` takes as long to import as a small report.
    """
    from scipy.special import ndtri

    share, squared = right / total, float(ndtri((1 + LEVEL) / 2)) ** 2
    centre = share + squared / (2 * total)
    reach = math.sqrt(squared * (share * (1 - share) / total + squared / (4 * total**2)))
    scale = 1 + squared / total
    return Interval(max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale))


def mean_interval(marks_SQ: Marks) -> Interval:
    """The bootstrap interval of an accuracy that is a mean over repeats."""
    return _percentiles(resampled(marks_SQ[:, None, :])[:, 0])


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p of questions that one of two models alone answers rightly.

    McNemar, Note on the sampling error of the difference between correlated proportions, 1947.
    """
    from scipy.special import bdtr

    # Both tails of a binomial with an even chance are alike: twice the lesser one.
    least, changed = min(only_first, only_second), only_first + only_second
    return min(1.0, 2.0 * float(bdtr(least, changed, 0.5)))


def compare(first_Q: Marks, second_Q: Marks) -> Comparison:
    """Two models that were asked the same questions, in the same order."""
    if first_Q.shape != second_Q.shape:
        raise ValueError(f"{first_Q.size} and {second_Q.size} questions are not the same ones")
    only_first = int(np.sum(first_Q > second_Q))
    only_second = int(np.sum(second_Q > first_Q))
    # To resample questions is to draw from three kinds of them: lost, won, and all others alike.
    num_questions = first_Q.size
    shares = np.array([only_first, only_second, num_questions - only_first - only_second])
    draws = np.random.default_rng([SEED, num_questions])
    kinds_B3 = draws.multinomial(num_questions, shares / num_questions, RESAMPLES)
    return Comparison(
        difference=(only_second - only_first) / num_questions,
        interval=_percentiles((kinds_B3[:, 1] - kinds_B3[:, 0]) / num_questions),
        only_first=only_first,
        only_second=only_second,
        p=mcnemar(only_first, only_second),
    )


def holm(ps: Sequence[float]) -> list[float]:
    """Each p of a family of tests, adjusted so that all of them may be held against one level.

    Holm, A simple sequentially rejective multiple test procedure, 1979: no assumption of how the
    tests depend on one another.
    """
    order = sorted(range(len(ps)), key=lambda at: ps[at])
    adjusted = [0.0] * len(ps)
    least = 0.0
    for rank, at in enumerate(order):
        least = max(least, min(1.0, (len(ps) - rank) * ps[at]))
        adjusted[at] = least
    return adjusted


def fall(
    fractions_P: Floats,
    accuracies_P: Floats,
    chance: float,
    at: Sequence[float],
    marks_SPQ: Marks | None = None,
) -> Fall:
    """How a curve falls; its first point is the dense model, at the fraction 0.

    A non-increasing curve is fitted to the accuracies (isotonic regression, least squares) and
    joined by straight lines; the dense margin is the measured one, not the fitted one. Fractions
    rise and are all different. Without `marks_SPQ` there are no intervals; with it, `accuracies_P`
    are their means, and the intervals are percentiles of the bootstrap: the same resampled
    questions at all points, and resampled repeats where there are several (Owen, The pigeonhole
    bootstrap, 2007).
    """
    best = _fall(fractions_P, accuracies_P[None], chance, at)
    if marks_SPQ is None:
        return Fall(
            Estimate(float(best.critical_B[0]), None),
            Estimate(float(best.sharpness_B[0]), None),
            tuple(None if each is None else Estimate(float(each[0]), None) for each in best.kept),
        )
    many = _fall(fractions_P, resampled(marks_SPQ), chance, at)
    return Fall(
        Estimate(float(best.critical_B[0]), _percentiles(many.critical_B)),
        Estimate(float(best.sharpness_B[0]), _percentiles(many.sharpness_B)),
        tuple(
            None if one is None or all_B is None else Estimate(float(one[0]), _percentiles(all_B))
            for one, all_B in zip(best.kept, many.kept, strict=True)
        ),
    )


def monotone(accuracies_BP: Floats) -> Floats:
    """The non-increasing curve nearest to each row, in least squares: [B, P]."""
    from scipy.optimize import isotonic_regression

    num_rows, num_points = accuracies_BP.shape
    # All rows in one call, each too far below the one before it to be pooled with it.
    steps_B1 = 2.0 * np.arange(num_rows)[:, None]
    fitted = isotonic_regression((accuracies_BP - steps_B1).ravel(), increasing=False).x
    return np.asarray(fitted).reshape(num_rows, num_points) + steps_B1


def crossing(fractions_P: Floats, fitted_BP: Floats, level_B: Floats) -> Floats:
    """Where each non-increasing curve reaches its level: [B]; `inf` where it stays above it."""
    below_BP = fitted_BP <= level_B[:, None]
    after_B = below_BP.argmax(axis=1)
    before_B = np.maximum(after_B - 1, 0)
    rows_B = np.arange(len(fitted_BP))
    high_B, low_B = fitted_BP[rows_B, before_B], fitted_BP[rows_B, after_B]
    gone_B = np.divide(
        high_B - level_B, high_B - low_B, out=np.zeros_like(level_B), where=high_B > low_B
    )
    start_B = fractions_P[before_B]
    reached_B = start_B + gone_B * (fractions_P[after_B] - start_B)
    return np.where(below_BP.any(axis=1), reached_B, math.inf)


def resampled(marks_SPQ: Marks) -> Floats:
    """The accuracies of P points on `RESAMPLES` draws of the questions, and of the repeats: [B, P].

    A draw takes as many questions as there are, with replacement, the same ones for all points and
    repeats. Of the repeats it takes one less than there are: a few of them, drawn as often, would
    vary less than their mean does (Rao and Wu, Resampling inference with complex survey data,
    1988).
    """
    num_repeats, _, num_questions = marks_SPQ.shape
    num_drawn = max(1, num_repeats - 1)
    counts_BQ = _counts(num_questions, num_questions)
    repeats_BS = _counts(num_repeats, num_drawn)
    # In float32 whole numbers are exact up to 16 million questions.
    marks_SQP = marks_SPQ.transpose(0, 2, 1).astype(np.float32)
    parts = []
    for start in range(0, RESAMPLES, at_once := max(1, CHUNK // num_questions)):
        counts_CQ = counts_BQ[start : start + at_once].astype(np.float32)
        weights_CS = repeats_BS[start : start + at_once].astype(np.float64)
        rights_SCP = np.stack([counts_CQ @ each for each in marks_SQP]).astype(np.float64)
        parts.append(np.einsum("cs,scp->cp", weights_CS, rights_SCP))
    return np.concatenate(parts) / (num_drawn * num_questions)


@dataclass(frozen=True)
class _Falls:
    critical_B: Floats
    sharpness_B: Floats
    kept: list[Floats | None]


def _fall(fractions_P: Floats, accuracies_BP: Floats, chance: float, at: Sequence[float]) -> _Falls:
    fitted_BP = monotone(accuracies_BP)
    margin_B = accuracies_BP[:, 0] - chance

    def reached(share: float) -> Floats:
        return crossing(fractions_P, fitted_BP, chance + share * margin_B)

    upper_B, lower_B = reached(UPPER), reached(LOWER)
    # Where a curve stays above the lower level, it takes more than there are points.
    sharpness_B = lower_B - np.where(np.isinf(lower_B), 0.0, upper_B)
    kept: list[Floats | None] = []
    for fraction in at:
        accuracy_B = _interpolated(fractions_P, fitted_BP, fraction)
        if accuracy_B is None:
            kept.append(None)
            continue
        # A resample in which the dense model is at chance has lost nothing that could be told.
        share_B = np.divide(
            accuracy_B - chance, margin_B, out=np.ones_like(margin_B), where=margin_B > 0
        )
        kept.append(share_B)
    return _Falls(reached(HALF), sharpness_B, kept)


def _interpolated(fractions_P: Floats, fitted_BP: Floats, fraction: float) -> Floats | None:
    if not fractions_P[0] <= fraction <= fractions_P[-1]:
        return None
    after = int(np.searchsorted(fractions_P, fraction))
    if fractions_P[after] == fraction:
        return fitted_BP[:, after]
    before = after - 1
    way = (fraction - fractions_P[before]) / (fractions_P[after] - fractions_P[before])
    return (1 - way) * fitted_BP[:, before] + way * fitted_BP[:, after]


@lru_cache(maxsize=4)
def _counts(num: int, times: int) -> NDArray[np.uint8]:
    """How often each of `num` things is among `times` drawn ones, for each resample: [B, num].

    Kept, since the curves of a study are asked the same questions. Nothing is drawn more often than
    10 times or so: a byte is enough.
    """
    draws = np.random.default_rng([SEED, num])
    counts = np.empty((RESAMPLES, num), dtype=np.uint8)
    for start in range(0, RESAMPLES, at_once := max(1, CHUNK // num)):
        rows = min(at_once, RESAMPLES - start)
        drawn = draws.integers(num, size=(rows, times)) + num * np.arange(rows)[:, None]
        found = np.bincount(drawn.ravel(), minlength=rows * num)
        counts[start : start + rows] = found.reshape(rows, num)
    return counts


def _percentiles(values_B: Floats) -> Interval:
    """The middle `LEVEL` of the resamples; ends are values that occur, since some are infinite."""
    tail = (1 - LEVEL) / 2
    low = np.quantile(values_B, tail, method="lower")
    high = np.quantile(values_B, 1 - tail, method="higher")
    return Interval(float(low), float(high))
