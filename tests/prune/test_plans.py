"""Complete plans: what each choice reports, and what is stored of it."""

import json
from itertools import pairwise

import numpy as np
import pytest

from layerprune.config.registry import STRATEGIES
from layerprune.errors import UserError
from layerprune.prune.distance_matrix import DistanceMatrix, cached_distance_matrix
from layerprune.prune.plan import Plan
from layerprune.prune.removal_order import RemovalOrder, cached_removal_order
from layerprune.prune.strategies.block import Block
from layerprune.prune.strategies.greedy import Greedy
from layerprune.prune.strategies.random import RandomLayers
from layerprune.prune.target import Target, targets

pytestmark = pytest.mark.quick

LAYERS = 6
DISTANCES = np.abs(np.subtract.outer(np.arange(7.0), np.arange(7.0)))


def test_layers_that_the_user_names():
    found = Block().plan(Target(0.5, 3, (0, 2, 5)), DISTANCES, 0)
    assert found == Plan("given", LAYERS, (0, 2, 5), None, "named by the user")


@pytest.mark.parametrize("strategy", ["block", "deepest", "scattered", "random"])
def test_the_dense_model(strategy):
    found = STRATEGIES[strategy]().plan(Target(0.0, 0), DISTANCES, 0)
    assert found == Plan(strategy, LAYERS, (), None, "the dense model")
    assert found.kept == tuple(range(LAYERS))


def test_an_order_is_followed_as_far_as_is_asked():
    order = RemovalOrder("key", {}, [4, 1, 3], [0.1, 0.2, 0.3], [1.0, 2.0, 3.0])
    found = Greedy().plan(Target(0.3, 2), order, LAYERS)
    assert (found.strategy, found.num_layers, found.dropped) == ("greedy", LAYERS, (1, 4))
    assert Greedy().plan(Target(0.0, 0), order, LAYERS) == Plan(
        "greedy", LAYERS, (), None, "the dense model"
    )


def test_chance_reaches_every_layer_and_none_beyond():
    choose = RandomLayers().choose
    seen = {layer for seed in range(40) for layer in choose(DISTANCES, 1, seed).layers}
    assert seen == set(range(LAYERS))
    for seed in range(5):
        nested = [set(choose(DISTANCES, count, seed).layers) for count in range(LAYERS + 1)]
        assert [len(each) for each in nested] == list(range(LAYERS + 1))
        assert all(less < more for less, more in pairwise(nested))
    assert choose(DISTANCES, 2, 9).reason == "the first 2 of a shuffle, seed 9"


def test_targets():
    named = Block(layers=[4, 1])
    assert targets(named, 8) == ([Target(0.25, 2, (1, 4))], [])
    found, notes = targets(Block(fraction=[0, 0.24, 0.26]), 8)
    assert found == [Target(0.0, 0), Target(0.24, 2)]
    assert notes == ["prune.fraction=0.26 of 8 layers is 2, like 0.24: one point."]
    for layers in ([8], [0, 1, 2]):
        with pytest.raises(UserError, match=r"prune\.layers=.*at least one must remain"):
            targets(Block(layers=layers), 3)


def test_an_order_is_read_again_and_goes_on(tmp_path):
    asked = []

    def extend(order, count):
        asked.append((len(order.layers), count))
        for layer in range(len(order.layers), count):
            order.add(layer, layer / 10, 2.0)

    def of(count, key="abc"):
        return cached_removal_order(tmp_path, key, {"a": 1}, count, extend)

    first = of(2)
    assert (first.layers, first.costs, first.layer_runs) == ([0, 1], [0.0, 0.1], [2.0, 4.0])
    assert of(2) == of(1) == first
    assert of(3).layers == [0, 1, 2]
    assert asked == [(0, 2), (2, 3)]
    path = tmp_path / "order-abc.json"
    (tmp_path / "order-xyz.json").write_bytes(path.read_bytes())  # of another key
    of(1, "xyz")
    assert asked.pop() == (0, 1)
    content = json.loads(path.read_text())
    assert content["depends_on"] == {"a": 1}


def test_distances_are_measured_once(tmp_path):
    measured = []

    def measure():
        measured.append(1)
        return DistanceMatrix("abc", {}, 2, [[0.0, 1.0], [1.0, 0.0]])

    first = cached_distance_matrix(tmp_path, "abc", measure)
    assert cached_distance_matrix(tmp_path, "abc", measure) == first == measure()
    assert len(measured) == 2  # the last one just above
    (tmp_path / "xyz.json").write_bytes((tmp_path / "abc.json").read_bytes())
    cached_distance_matrix(tmp_path, "xyz", measure)
    assert len(measured) == 3
