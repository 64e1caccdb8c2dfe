"""The search against curves whose answer is known, and against noise, dips and bumps."""

import math

import numpy as np
import pytest
from search_curves import simulated_curve

from layerprune.search.bayesian_search import Margin, max_healings, posterior_of, search


@pytest.mark.slow
def test_of_200_noisy_curves_19_in_20_are_answered_to_within_a_layer():
    near = []
    for seed in range(10_000, 10_200):  # nothing was tuned on these
        curve = simulated_curve(seed)
        posterior, healed = search(
            curve.unhealed, curve.dense, curve.keep, curve.healed.__getitem__
        )
        near.append(abs(posterior.answer - curve.answer) <= 1)
        assert len(healed) <= max_healings(len(curve.unhealed))
        assert set(healed) <= set(range(1, len(curve.unhealed)))
    assert np.mean(near) >= 0.95


def sure(values, error=0.001, num_questions=400):
    """Margins with hardly any noise."""
    errors_Q = np.full(num_questions, error / math.sqrt(num_questions))
    return [Margin(float(value), errors_Q) for value in values]


@pytest.mark.parametrize("num_layers", [2, 3, 12, 32, 80, 126])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_without_noise_a_step_is_found_to_the_layer(num_layers, share):
    last = int(share * (num_layers - 1))
    unhealed = sure([0.05] + [-0.45] * (num_layers - 1))
    healed = sure([0.05 if n <= last else -0.4 for n in range(num_layers)])
    posterior, tried = search(unhealed, 0.5, 0.9, healed.__getitem__)
    assert posterior.answer == last
    assert len(tried) <= max_healings(num_layers)


def test_a_dip_hides_what_lies_beyond_it_only_where_the_search_begins():
    found = []
    for dip in range(1, 15):
        values = [0.05 if n <= 14 and n != dip else -0.1 for n in range(30)]
        unhealed = sure([0.05] + [-0.45] * 29)
        posterior, tried = search(unhealed, 0.5, 0.9, sure(values).__getitem__)
        found.append(posterior.answer)
        assert posterior.answer >= 11 or next(iter(tried)) == dip
    assert sum(answer >= 13 for answer in found) >= 12


def test_a_curve_that_needs_no_healing_is_left_alone():
    unhealed = sure([0.05] * 30)
    posterior, tried = search(unhealed, 0.5, 0.9, lambda n: pytest.fail("healed"))
    assert (posterior.answer, tried) == (29, {})


def test_what_meets_the_budget_is_decided_by_its_noise_and_its_neighbours():
    unhealed = sure([0.05] + [-0.45] * 29)
    healed = {8: sure([0.03])[0], 9: sure([-0.002], error=0.02)[0], 10: sure([0.03])[0]}
    posterior = posterior_of(unhealed, healed, 0.5, 0.9)
    assert posterior.meets_N[9] > 0.5, "a bare comparison would say no"
    assert posterior_of(unhealed, {9: sure([-0.002])[0]}, 0.5, 0.9).meets_N[9] < 0.5


def test_the_same_margins_lead_to_the_same_candidates_wherever_a_search_was_stopped():
    curve = simulated_curve(3)
    margins = curve.unhealed, curve.dense, curve.keep, curve.healed.__getitem__
    order = list(search(*margins)[1])
    for stopped in range(len(order)):
        healed_before = {n: curve.healed[n] for n in order[:stopped]}
        assert list(search(*margins, healed_before=healed_before)[1]) == order


def test_more_is_never_healed_than_was_said():
    assert [max_healings(count) for count in (2, 12, 30, 32, 33, 80)] == [2, 5, 6, 6, 7, 8]
