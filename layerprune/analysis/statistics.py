"""Intervals, paired comparisons and critical fractions from the answers to single questions.

Shapes: S repeats (curves that differ in nothing but their seed), P points of a curve, Q questions,
B resamples. Fractions are shares of a model's layers, accuracies shares of questions. Everything
here is deterministic: resamples are drawn by `SEED`, in the same way for the same number of
questions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
"""Coverage of every interval."""

RESAMPLES = 2000
"""Resamples of the questions for each bootstrap interval."""

SEED = 0
"""Seed of all draws."""

CHUNK = 4_000_000
"""Drawn questions in memory at once, apart from a byte for each."""

HALF = 0.5
"""Share of the dense margin that is left at the critical fraction."""

UPPER, LOWER = 0.75, 0.25
"""Shares of the dense margin between which the sharpness is measured."""

Floats = NDArray[np.float64]
Correctness = NDArray[np.uint8]
"""1 for a question answered correctly, else 0; questions are the last axis."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval; `math.inf` for an end beyond every point."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A number, with its interval where the answers to single questions are known."""

    value: float | None
    """`math.inf` for a fraction beyond every point; None for one that its points do not resolve."""
    interval: Interval | None


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the same questions."""

    difference: float
    """Accuracy of the second minus accuracy of the first."""
    interval: Interval
    only_first: int
    """Questions that only the first answers correctly."""
    only_second: int
    p: float
    """Of McNemar's exact two-sided test, whose null hypothesis is that both are equally good."""


@dataclass(frozen=True)
class Decline:
    """The loss of the dense model's margin over chance along a curve."""

    critical: Estimate
    """The critical fraction, at which half of the margin is left."""
    sharpness: Estimate
    """The fraction over which three quarters of the margin fall to a quarter. Its value is None if
    it is less than a layer, or than the distance of the points between which the curve falls."""
    retained: tuple[Estimate | None, ...]
    """The share of the margin that is left at each given fraction; None beyond the points."""


def wilson(correct: int, total: int) -> Interval:
    """Return Wilson's interval of the share `correct` / `total` of questions.

    Wilson, Probable inference, the law of succession, and statistical inference, 1927. The normal
    quantile comes from `scipy.special`: importing `scipy.stats` takes as long as a small report.
    """
    from scipy.special import ndtri

    share, squared = correct / total, float(ndtri((1 + LEVEL) / 2)) ** 2
    centre = share + squared / (2 * total)
    half = math.sqrt(squared * (share * (1 - share) / total + squared / (4 * total**2)))
    scale = 1 + squared / total
    return Interval(max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))


def mean_interval(correct_SQ: Correctness) -> Interval:
    """Return the bootstrap interval of an accuracy that is a mean over repeats."""
    means_B = resampled(correct_SQ[:, None, :])[:, 0]
    return _percentiles(means_B, means_B)


def mcnemar(only_first: ArrayLike, only_second: ArrayLike) -> Floats:
    """Return the exact two-sided p of questions that only one of two models answers correctly.

    McNemar, Note on the sampling error of the difference between correlated proportions, 1947.
    """
    from scipy.special import bdtr

    # Both tails of a binomial with an even chance are alike: twice the smaller one.
    least, changed = np.minimum(only_first, only_second), np.add(only_first, only_second)
    return np.minimum(1.0, 2.0 * bdtr(least, changed, 0.5))


def compare(first_Q: Correctness, second_Q: Correctness) -> PairedComparison:
    """Compare two models on the same questions, in the same order."""
    if first_Q.shape != second_Q.shape:
        raise ValueError(f"{first_Q.size} and {second_Q.size} questions are not the same ones")
    only_first = int(np.sum(first_Q > second_Q))
    only_second = int(np.sum(second_Q > first_Q))
    # Resampling questions means drawing from three kinds: lost, won, and all others.
    num_questions = first_Q.size
    shares = np.array([only_first, only_second, num_questions - only_first - only_second])
    draws = np.random.default_rng([SEED, num_questions])
    kinds_B3 = draws.multinomial(num_questions, shares / num_questions, RESAMPLES)
    differences_B = (kinds_B3[:, 1] - kinds_B3[:, 0]) / num_questions
    return PairedComparison(
        difference=(only_second - only_first) / num_questions,
        interval=_percentiles(differences_B, differences_B),
        only_first=only_first,
        only_second=only_second,
        p=float(mcnemar(only_first, only_second)),
    )


def holm(ps: Sequence[float] | Floats) -> list[float]:
    """Adjust the p of each test of a family, so that all can be compared with one level.

    Holm, A simple sequentially rejective multiple test procedure, 1979: no assumption about the
    dependence of the tests.
    """
    order = np.argsort(ps, kind="stable")
    adjusted = np.empty(len(ps))
    scaled = np.array(ps)[order] * np.arange(len(ps), 0, -1)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, scaled))
    return adjusted.tolist()


def dips(correct_PQ: Correctness) -> list[int]:
    """Return the points that answer fewer questions than a later one, beyond noise.

    McNemar's test of every two points, adjusted by Holm's method.
    """
    right_PQ = correct_PQ.astype(np.float32)  # exact up to 16 million questions
    only_PP = (right_PQ @ (1 - right_PQ).T).astype(int)
    first, second = np.triu_indices(len(correct_PQ), 1)
    lost, won = only_PP[first, second], only_PP[second, first]
    beyond_noise = np.array(holm(mcnemar(lost, won))) < 1 - LEVEL
    return sorted(set(first[beyond_noise & (won > lost)].tolist()))


def decline(
    fractions_P: Floats,
    accuracies_P: Floats,
    chance: float,
    at_fractions: Sequence[float],
    num_layers: int,
    correct_SPQ: Correctness | None = None,
) -> Decline:
    """Return the decline of a curve whose first point is the dense model, at the fraction 0.

    How it works:
    1. A non-increasing curve is fitted to the accuracies (isotonic regression, least squares) and
       joined by straight lines. The dense margin is the measured one, not the fitted one.
       Fractions rise and are all different.
    2. Where neighbouring points are more than one of `num_layers` layers apart, the curve may fall
       anywhere between them: a result has a least and a greatest value there.
    3. With `correct_SPQ`, whose means are `accuracies_P`, intervals reach from the lower percentile
       of the least to the upper percentile of the greatest values in the bootstrap: the same
       resampled questions at all points, and resampled repeats where there are several (Owen, The
       pigeonhole bootstrap, 2007). Without it, only what is not resolved has an interval.
    """
    layer = 1 / num_layers
    measured = _declines(fractions_P, accuracies_P[None], chance, at_fractions, layer)
    resamples = measured
    if correct_SPQ is not None:
        resamples = _declines(fractions_P, resampled(correct_SPQ), chance, at_fractions, layer)

    def estimate(best: Bounds | None, bounds: Bounds | None) -> Estimate | None:
        if best is None or bounds is None:
            return None
        value = float(best.value_B[0])
        interval = _percentiles(bounds.low_B, bounds.high_B)
        if math.isnan(value):
            return Estimate(None, interval)
        return Estimate(value, None if correct_SPQ is None else interval)

    critical, sharpness, *retained = map(estimate, measured, resamples)
    assert critical is not None
    assert sharpness is not None
    return Decline(critical, sharpness, tuple(retained))


def monotone(accuracies_BP: Floats) -> Floats:
    """Return the non-increasing curve closest to each row, in least squares: [B, P]."""
    from scipy.optimize import isotonic_regression

    num_rows, num_points = accuracies_BP.shape
    # All rows in one call, each too far below the previous one to be pooled with it.
    steps_B1 = 2.0 * np.arange(num_rows)[:, None]
    fitted = isotonic_regression((accuracies_BP - steps_B1).ravel(), increasing=False).x
    return np.asarray(fitted).reshape(num_rows, num_points) + steps_B1


class Bounds(NamedTuple):
    """A result for each resample: [B] each. They are equal where nothing is left open."""

    low_B: Floats
    value_B: Floats
    """With points joined by straight lines."""
    high_B: Floats


def crossing(fractions_P: Floats, fitted_BP: Floats, level_B: Floats, layer: float) -> Bounds:
    """Return where each non-increasing curve reaches its level; `inf` if it stays above.

    Between neighbouring points more than a `layer` apart, it may do so anywhere.
    """
    below_BP = fitted_BP <= level_B[:, None]
    after_B = below_BP.argmax(axis=1)
    before_B = np.maximum(after_B - 1, 0)
    rows_B = np.arange(len(fitted_BP))
    high_B, low_B = fitted_BP[rows_B, before_B], fitted_BP[rows_B, after_B]
    gone_B = np.divide(
        high_B - level_B, high_B - low_B, out=np.zeros_like(level_B), where=high_B > low_B
    )
    start_B, end_B = fractions_P[before_B], fractions_P[after_B]
    reached_B = start_B + gone_B * (end_B - start_B)
    open_B = end_B - start_B > 1.5 * layer
    reached_B, start_B, end_B = (
        np.where(below_BP.any(axis=1), places_B, math.inf)
        for places_B in (reached_B, start_B, end_B)
    )
    return _bounds(start_B, reached_B, end_B, open_B)


def resampled(correct_SPQ: Correctness) -> Floats:
    """Return the accuracies of P points on `RESAMPLES` draws of questions and repeats: [B, P].

    A draw takes as many questions as there are, with replacement, the same ones for all points and
    repeats. It takes one repeat less than there are: as many draws from so few repeats would vary
    less than their mean does (Rao and Wu, Resampling inference with complex survey data, 1988).
    """
    num_repeats, _, num_questions = correct_SPQ.shape
    num_drawn = max(1, num_repeats - 1)
    counts_BQ = _counts(num_questions, num_questions)
    repeats_BS = _counts(num_repeats, num_drawn)
    # Integers are exact in float32 up to 16 million questions.
    correct_SQP = correct_SPQ.transpose(0, 2, 1).astype(np.float32)
    parts = []
    for start in range(0, RESAMPLES, at_once := max(1, CHUNK // num_questions)):
        counts_CQ = counts_BQ[start : start + at_once].astype(np.float32)
        weights_CS = repeats_BS[start : start + at_once].astype(np.float64)
        sums_SCP = np.stack([counts_CQ @ correct_QP for correct_QP in correct_SQP])
        parts.append(np.einsum("cs,scp->cp", weights_CS, sums_SCP.astype(np.float64)))
    return np.concatenate(parts) / (num_drawn * num_questions)


def _declines(
    fractions_P: Floats,
    accuracies_BP: Floats,
    chance: float,
    at_fractions: Sequence[float],
    layer: float,
) -> list[Bounds | None]:
    """Return critical fraction, sharpness and retained shares of each resample.

    A sharpness that is not resolved is NaN.
    """
    fitted_BP = monotone(accuracies_BP)
    margin_B = accuracies_BP[:, 0] - chance
    critical, upper, lower = (
        crossing(fractions_P, fitted_BP, chance + share * margin_B, layer)
        for share in (HALF, UPPER, LOWER)
    )
    resolution_B = np.maximum.reduce(
        [np.full_like(margin_B, layer), *(_less(at.high_B, at.low_B) for at in (upper, lower))]
    )
    fall_B = _less(lower.value_B, upper.value_B)
    sharpness = Bounds(
        np.maximum(0.0, _less(lower.low_B, upper.high_B)),
        np.where(fall_B < (1 - 1e-9) * resolution_B, math.nan, fall_B),
        np.maximum(layer, _less(lower.high_B, upper.low_B)),
    )
    results: list[Bounds | None] = [critical, sharpness]
    for fraction in at_fractions:
        accuracy = _interpolated(fractions_P, fitted_BP, fraction, layer)
        if accuracy is None:
            results.append(None)
            continue
        # A resample in which the dense model is at chance has lost nothing measurable.
        some_B = margin_B > 0
        shares = (
            np.divide(accuracy_B - chance, margin_B, out=np.ones_like(margin_B), where=some_B)
            for accuracy_B in accuracy
        )
        results.append(Bounds(*shares))
    return results


def _less(end_B: Floats, start_B: Floats) -> Floats:
    """Return the distance of two fractions, infinite where the end is."""
    return end_B - np.where(np.isinf(end_B), 0.0, start_B)


def _interpolated(
    fractions_P: Floats, fitted_BP: Floats, fraction: float, layer: float
) -> Bounds | None:
    """Return the curves at a fraction; None beyond the points."""
    if not fractions_P[0] <= fraction <= fractions_P[-1]:
        return None
    after = int(np.searchsorted(fractions_P, fraction))
    if fractions_P[after] == fraction:
        return Bounds(*[fitted_BP[:, after]] * 3)
    gap = fractions_P[after] - fractions_P[after - 1]
    weight = (fraction - fractions_P[after - 1]) / gap
    high_B, low_B = fitted_BP[:, after - 1], fitted_BP[:, after]
    return _bounds(low_B, (1 - weight) * high_B + weight * low_B, high_B, gap > 1.5 * layer)


def _bounds(low_B: Floats, value_B: Floats, high_B: Floats, open_B: ArrayLike) -> Bounds:
    return Bounds(np.where(open_B, low_B, value_B), value_B, np.where(open_B, high_B, value_B))


@lru_cache(maxsize=4)
def _counts(num: int, times: int) -> NDArray[np.uint8]:
    """Count each of `num` things among `times` drawn ones, for each resample: [B, num].

    Cached, since the curves of a study have the same questions. Nothing is drawn more often than
    10 times or so: a byte is enough.
    """
    draws = np.random.default_rng([SEED, num])
    counts = np.empty((RESAMPLES, num), dtype=np.uint8)
    for start in range(0, RESAMPLES, at_once := max(1, CHUNK // num)):
        rows = min(at_once, RESAMPLES - start)
        drawn = draws.integers(num, size=(rows, times)) + num * np.arange(rows)[:, None]
        flat = np.bincount(drawn.ravel(), minlength=rows * num)
        counts[start : start + rows] = flat.reshape(rows, num)
    return counts


def _percentiles(low_B: Floats, high_B: Floats) -> Interval:
    """Return the middle `LEVEL` of resamples; its ends are values that occur: some are infinite."""
    tail = (1 - LEVEL) / 2
    low = np.quantile(low_B, tail, method="lower")
    high = np.quantile(high_B, 1 - tail, method="higher")
    return Interval(float(low), float(high))
