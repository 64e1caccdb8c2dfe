"""Metrics of hidden states on vectors made by hand, and against one pair at a time."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from naive_metrics import compare_with_naive, pairwise
from tiny import tiny

from layerprune.config import registry
from layerprune.config.schema import Tokens
from layerprune.errors import UserError
from layerprune.prune.hidden_states import mean_distances
from layerprune.prune.metrics import TokenMetric

pytestmark = pytest.mark.quick

METRICS = {
    name: options(tokens=Tokens.all)
    for name, options in registry.METRICS.choices().items()
    if issubclass(options, TokenMetric)
}
angular, cka, cosine, euclidean, magnitude = (
    METRICS[name] for name in ("angular", "cka", "cosine", "euclidean", "magnitude")
)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distances(metric, states_NSH):
    return metric.distances(metric.sum_over_tokens(states_NSH) / len(states_NSH)).numpy()


def angle(x, y):
    cosine = x @ y / (np.linalg.norm(x) * np.linalg.norm(y))
    return math.acos(max(-1.0, min(1.0, cosine))) / math.pi


def cosine_distance(x, y):
    return 1 - x @ y / (np.linalg.norm(x) * np.linalg.norm(y))


def naive_hsic(x_NH, y_NH):
    """HSIC_1 as it stands in Nguyen et al., equation 3."""
    n = len(x_NH)
    k, l = x_NH @ x_NH.T, y_NH @ y_NH.T  # noqa: E741 - the paper's letters
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    one = np.ones(n)
    return (
        np.trace(k @ l)
        + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ l @ one)
    ) / (n * (n - 3))


def naive_cka(sequences):
    size = sequences[0].shape[1]
    distances = np.zeros((size, size))
    for i in range(size):
        for j in range(i + 1, size):
            both, first, second = (
                np.mean([naive_hsic(states[:, a], states[:, b]) for states in sequences])
                for a, b in ((i, j), (i, i), (j, j))
            )
            distances[i, j] = distances[j, i] = 1 - both / math.sqrt(first * second)
    return distances


NAIVE = {  # of a state x and a later state y
    "angular": pairwise(angle),
    "cosine": pairwise(cosine_distance),
    "block_influence": pairwise(cosine_distance),
    "euclidean": pairwise(math.dist),
    "magnitude": pairwise(lambda x, y: np.linalg.norm(y - x) / np.linalg.norm(x)),
    "cka": naive_cka,
}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("name", sorted(NAIVE))
def test_all_tokens_but_the_first_against_one_pair_at_a_time(family, name):
    compare_with_naive(METRICS[name], NAIVE[name], [family])


def test_every_metric_has_a_naive_form_here_or_in_a_file_of_its_own():
    for name in METRICS.keys() - NAIVE.keys():
        assert "compare_with_naive" in Path(__file__).with_name(f"test_{name}.py").read_text()


def test_the_first_token_counts_for_nothing_with_all_tokens_of_a_sequence():
    """Its own states are left out; a model without attention between tokens hides it altogether."""
    model = tiny("llama")
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    ids_BT = torch.randint(3, 96, (2, 6), generator=torch.Generator().manual_seed(1))
    other_BT = ids_BT.clone()
    other_BT[:, 0] = 2
    length_B = torch.tensor([6, 6])
    for name in sorted(METRICS):
        one, other = (
            mean_distances(model, [(ids, length_B)], METRICS[name]) for ids in (ids_BT, other_BT)
        )
        np.testing.assert_array_equal(one, other)


def test_angles_of_known_vectors():
    states = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]]])
    expected = [[0, 0.5, 1, 0.25], [0.5, 0, 0.5, 0.25], [1, 0.5, 0, 0.75], [0.25, 0.25, 0.75, 0]]
    np.testing.assert_allclose(distances(angular, states), expected, atol=1e-12)


def test_cosines_of_known_vectors():
    states = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 0.0]]])
    expected = [[0, 1, 2, 0], [1, 0, 1, 1], [2, 1, 0, 2], [0, 1, 2, 0]]
    np.testing.assert_allclose(distances(cosine, states), expected, atol=1e-12)


def test_lengths_are_absolute_or_relative_to_the_earlier_state():
    states = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [3.0, 4.0]]])
    apart = [[0, 2, math.sqrt(20)], [2, 0, 4], [math.sqrt(20), 4, 0]]
    relative = [[0, 2, math.sqrt(20)], [2, 0, 4 / 3], [math.sqrt(20), 4 / 3, 0]]
    np.testing.assert_allclose(distances(euclidean, states), apart, atol=1e-12)
    np.testing.assert_allclose(distances(magnitude, states), relative, atol=1e-12)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_is_symmetric_and_nothing_is_apart_from_itself(name):
    found = distances(METRICS[name], drawn(7, 5, 8))
    assert found.shape == (5, 5)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    assert (np.diagonal(found) == 0).all()
    assert (found[~np.eye(5, dtype=bool)] > 0).all()


@pytest.mark.parametrize("name", sorted(METRICS))
def test_equal_states_are_not_apart(name):
    states_N1H = drawn(7, 1, 8)
    found = distances(METRICS[name], states_N1H.repeat(1, 3, 1))
    np.testing.assert_allclose(found, np.zeros((3, 3)), atol=1e-7)


@pytest.mark.parametrize("name", sorted(set(NAIVE) - {"euclidean"}))
def test_the_scale_of_all_states_matters_to_lengths_alone(name):
    states = drawn(7, 4, 8)
    np.testing.assert_allclose(
        distances(METRICS[name], 1000 * states), distances(METRICS[name], states), rtol=1e-6
    )
    twice = distances(euclidean, 2 * states)
    np.testing.assert_allclose(twice, 2 * distances(euclidean, states), rtol=1e-6)


def test_cka_is_blind_to_rotation_shift_and_scale_of_one_state():
    states_NH = drawn(20, 1, 8)
    rotation_HH = torch.linalg.qr(drawn(8, 8, seed=1))[0]
    turned = 3 * states_NH @ rotation_HH + drawn(8, seed=2)
    found = distances(cka, torch.cat([states_NH, turned], dim=1))
    assert abs(found[0, 1]) < 1e-5
    assert distances(cosine, torch.cat([states_NH, turned], dim=1))[0, 1] > 0.1


def test_cka_of_states_that_have_nothing_to_do_with_each_other_is_1_whatever_the_batch():
    """The estimator is unbiased: small batches do not make states look alike."""
    hsic = sum(cka.sum_over_tokens(drawn(5, 2, 16, seed=seed)) / 5 for seed in range(400)) / 400
    assert abs(float(cka.distances(hsic)[0, 1]) - 1) < 0.1


def test_cka_of_too_few_tokens_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"metric=cka needs 4 tokens.*there are 3") as caught:
        cka.sum_over_tokens(drawn(3, 2, 8))
    assert "\n" not in str(caught.value)


def test_small_angles_survive_half_precision_states():
    angle = 0.02 * math.pi
    states = torch.tensor([[[1.0, 0.0], [math.cos(angle), math.sin(angle)]]]).bfloat16()
    assert distances(angular, states)[0, 1] == pytest.approx(0.02, abs=5e-4)


def test_cka_survives_a_few_states_of_enormous_norm():
    states = drawn(30, 2, 8)
    states[0] += 1e4
    naive_distance = naive_cka([states.double().numpy()])[0, 1]
    assert distances(cka, states)[0, 1] == pytest.approx(naive_distance, abs=1e-6)
