"""Intervals and tests against published numbers, and against curves whose truth is known."""

import math
from dataclasses import astuple
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binomtest
from simulated_answers import CHANCE, SimulatedModel, coverage

from layerprune.analysis.statistics import (
    compare,
    decline,
    dips,
    holm,
    mcnemar,
    mean_interval,
    monotone,
    resampled,
    wilson,
)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_that_of_newcombe_1998(right, total, low, high):
    interval = wilson(right, total)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_and_mcnemar_are_those_of_scipy_stats():
    for right, total in ((0, 1), (1, 1), (0, 9), (9, 9), (3, 7), (355, 711), (14041, 14042)):
        published = binomtest(right, total).proportion_ci(0.95, method="wilson")
        assert astuple(wilson(right, total)) == pytest.approx(
            (published.low, published.high), rel=1e-12, abs=1e-15
        )
    for first in range(12):
        for second in range(12):
            exact = binomtest(first, first + second).pvalue if first + second else 1.0
            assert mcnemar(first, second) == pytest.approx(exact, rel=1e-12)


def test_holm_is_that_of_r():
    # p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_mcnemar_counts_only_what_changed():
    # Both tails of the binomial, by hand: 2 (1 + 10 + 45) / 2^10.
    assert mcnemar(2, 8) == mcnemar(8, 2) == pytest.approx(2 * 56 / 1024)
    assert mcnemar(0, 0) == 1.0
    # The approval of a prime minister (Agresti): mcnemar.exact of R's package exact2x2.
    assert mcnemar(86, 150) == pytest.approx(3.716e-05, rel=1e-3)


def test_a_comparison_is_paired():
    draws = np.random.default_rng(1)
    first = (draws.random(500) < 0.6).astype(np.uint8)
    second = first.copy()
    second[:30] = 1 - second[:30]
    found = compare(first, second)
    won, lost = found.only_second, found.only_first
    assert won + lost == 30
    assert found.difference == pytest.approx(second.mean() - first.mean())
    # Its interval equals the textbook's for a paired difference.
    error = math.sqrt(30 - (won - lost) ** 2 / 500) / 500
    width = found.interval.high - found.interval.low
    assert width == pytest.approx(2 * 1.96 * error, rel=0.1)
    alike = compare(first, first)
    assert (alike.difference, alike.p) == (0, 1)
    assert alike.interval.low == alike.interval.high == 0
    with pytest.raises(ValueError, match="500 and 499"):
        compare(first, first[1:])


def test_the_bootstrap_of_a_mean_is_wilsons_interval_where_that_holds():
    marks = np.zeros((1, 711), dtype=np.uint8)
    marks[0, :500] = 1
    bootstrap, exact = mean_interval(marks), wilson(500, 711)
    assert bootstrap.low == pytest.approx(exact.low, abs=0.004)
    assert bootstrap.high == pytest.approx(exact.high, abs=0.004)


def test_every_row_is_fitted_alone():
    draws = np.random.default_rng(0)
    rows = draws.random((50, 12))
    fitted = monotone(rows)
    assert all(a >= b - 1e-9 for row in fitted for a, b in pairwise(row))
    for row, fit in zip(rows, fitted, strict=True):
        assert monotone(row[None])[0] == pytest.approx(fit)
    falling = -np.sort(-rows, axis=1)
    assert monotone(falling) == pytest.approx(falling)


def test_questions_are_resampled_together_and_always_alike():
    marks = np.zeros((1, 2, 300), dtype=np.uint8)
    marks[0, 0, :200] = marks[0, 1, :100] = 1
    both = resampled(marks)
    assert np.array_equal(both, resampled(marks))
    # The second point is right only where the first is too, so in every resample.
    assert (both[:, 0] >= both[:, 1]).all()
    assert both.mean(axis=0) == pytest.approx([2 / 3, 1 / 3], abs=0.003)
    many = np.repeat(marks, 3, axis=0)
    assert resampled(many) == pytest.approx(both)


def test_a_curve_by_hand():
    fractions = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    # 0.25 + 0.4 of margin; half of it is left at 0.45.
    found = decline(fractions, np.array([0.65, 0.6, 0.4, 0.5, 0.25]), CHANCE, (0.1, 0.25, 0.5), 10)
    # 0.4 and 0.5 are pooled at 0.45: that is reached at 0.2.
    assert found.critical.value == pytest.approx(0.2)
    assert found.critical.interval is None
    # 0.55 lies a third of the way from 0.1 to 0.2, 0.35 half of the way from 0.3 to 0.4.
    assert found.sharpness.value == pytest.approx(0.35 - (0.1 + 0.1 / 3))
    assert found.retained[0].value == pytest.approx(0.35 / 0.4)
    assert found.retained[1].value == pytest.approx(0.5)
    assert found.retained[2] is None


def test_a_curve_that_stays_above_half_is_censored():
    draws = np.random.default_rng(0)

    def found(model, num_questions, at_fractions):
        marks = model.answers(draws, num_questions)[:6]
        fractions = np.arange(6) / 10
        return decline(fractions, marks.mean(axis=1), CHANCE, at_fractions, 10, marks[None])

    high = found(SimulatedModel(10, known=0.8, centre=0.9, width=0.1), 400, (0.5,))
    assert high.critical.value == math.inf
    assert high.critical.interval.high == math.inf
    assert high.sharpness.value == math.inf
    assert high.retained[0].value > 0.9
    # One that just falls through it may as well not: its interval is open.
    near = found(SimulatedModel(10, known=0.8, centre=0.49, width=0.1), 60, ())
    assert near.critical.interval.low < 0.49
    assert near.critical.interval.high == math.inf


def test_a_coarse_grid_leaves_open_what_lies_between_its_points():
    fractions = np.array([0.0, 0.2, 0.3, 0.6, 0.9])
    marks = np.zeros((1, 5, 1000), dtype=np.uint8)
    for point, right in enumerate((800, 790, 780, 300, 250)):
        marks[0, point, :right] = 1
    found = decline(fractions, marks[0].mean(axis=1), CHANCE, (0.2, 0.45), 30, marks)
    # Half of the margin is gone somewhere between 0.3 and 0.6, wherever the straight line is.
    assert 0.3 < found.critical.value < 0.6
    assert found.critical.interval.low == pytest.approx(0.3)
    assert found.critical.interval.high == pytest.approx(0.6)
    # So are three quarters and a quarter: no more is known than that.
    assert found.sharpness.value is None
    assert (found.sharpness.interval.low, found.sharpness.interval.high) == pytest.approx((0, 0.3))
    at_point, between = found.retained
    assert at_point.interval.high < 1.05
    assert between.interval.low < 0.15
    assert between.interval.high > 0.9
    # The same points, a layer apart: nothing is left open.
    fine = decline(np.arange(5) / 5, marks[0].mean(axis=1), CHANCE, (), 5, marks)
    assert fine.critical.interval.high - fine.critical.interval.low < 0.03
    assert fine.sharpness.value is None, "less than a layer"


def test_grids_of_one_curve_agree():
    """The intervals of every other depth, of every third, ... hold the value of all depths."""
    model = SimulatedModel(30, known=0.7, centre=0.25, width=0.08)
    marks = model.answers(np.random.default_rng(5), 711)

    def found(depths):
        return decline(depths / 30, marks[depths].mean(axis=1), CHANCE, (), 30, marks[None, depths])

    full = found(np.arange(30))
    for step in (2, 3, 4, 5, 7):
        for start in range(1, step + 1):
            critical = found(np.array([0, *range(start, 30, step)])).critical.interval
            assert critical.low <= full.critical.value <= critical.high


# Layers, questions, points, and how fast the model forgets: docs/statistics.md has more of them.
SETTINGS = [
    (SimulatedModel(10, known=0.75, centre=0.4, width=0.15), 100, 10),
    (SimulatedModel(30, known=0.5, centre=0.3, width=0.15), 250, 30),
    (SimulatedModel(30, known=0.7, centre=0.25, width=0.1), 711, 10),
    (SimulatedModel(40, known=0.75, centre=0.3, width=0.03), 500, 6),
    (SimulatedModel(30, known=0.7, centre=0.25, width=0.1, dip=5), 711, 12),
]


@pytest.mark.parametrize(("model", "num_questions", "num_points"), SETTINGS)
def test_intervals_on_random_grids_hold_the_truth_of_all_depths(model, num_questions, num_points):
    held = coverage(model, num_questions, num_points, num_draws=150)
    assert held["critical"] >= 0.93
    assert held["same answers"] >= 0.93
    assert held["sharpness"] >= 0.93
    if num_points == model.num_layers:  # where nothing is left open, no wider than they must be
        assert held["critical"] <= 0.985


def test_a_dip_is_found_and_noise_is_not():
    model = SimulatedModel(30, known=0.7, centre=0.5, width=0.2, dip=8)
    draws = np.random.default_rng(2)
    assert dips(model.answers(draws, 711)) == [8]
    smooth = SimulatedModel(30, known=0.7, centre=0.5, width=0.2)
    assert sum(bool(dips(smooth.answers(draws, 300))) for _ in range(100)) <= 5


def test_equal_curves_are_seldom_called_different():
    model = SimulatedModel(30, known=0.75, centre=0.25, width=0.1)
    draws = np.random.default_rng(3)
    num_called = 0
    for _ in range(500):
        one, other = (model.answers(draws, 150)[:15] for _ in range(2))
        ps = mcnemar(np.sum(one > other, axis=1), np.sum(other > one, axis=1))
        num_called += min(holm(ps)) < 0.05
    assert num_called / 500 <= 0.05


def test_curves_that_differ_are_called_different():
    draws = np.random.default_rng(3)
    one, other = (
        SimulatedModel(30, known=0.75, centre=centre, width=0.1).answers(draws, 711)[:15]
        for centre in (0.25, 0.35)
    )
    ps = [compare(*pair).p for pair in zip(one, other, strict=True)]
    assert sum(p < 0.05 for p in holm(ps)) > 3
