"""Strategies on a matrix made by hand."""

import itertools

import numpy as np
import pytest

from layerprune.config import registry
from layerprune.errors import UserError
from layerprune.prune.strategies import DistanceStrategy
from layerprune.prune.strategies.block import Block
from layerprune.prune.strategies.scattered import Scattered
from layerprune.prune.target import Target, num_dropped, targets

STRATEGIES = {
    name: options()
    for name, options in registry.STRATEGIES.choices().items()
    if issubclass(options, DistanceStrategy)
}

pytestmark = pytest.mark.quick

# Six layers, seven states. Entry [l, l+n] is the distance across the block of n that starts at l.
D = np.array([
    [0.0, 0.9, 0.9, 0.8, 0.9, 0.9, 1.0],
    [0.9, 0.0, 0.5, 0.4, 0.9, 0.9, 1.0],
    [0.9, 0.5, 0.0, 0.1, 0.3, 0.8, 1.0],
    [0.8, 0.4, 0.1, 0.0, 0.1, 0.3, 1.0],
    [0.9, 0.9, 0.3, 0.1, 0.0, 0.2, 0.9],
    [0.9, 0.9, 0.8, 0.3, 0.2, 0.0, 0.8],
    [1.0, 1.0, 1.0, 1.0, 0.9, 0.8, 0.0],
])  # fmt: skip


def plan(strategy, count, seed=0):
    return STRATEGIES[strategy].plan(Target(count / 6, count), D, seed)


@pytest.mark.parametrize(
    ("count", "dropped", "score"),
    [
        (1, (3,), 0.1),  # 2 and 3 tie: the deeper one
        (2, (3, 4), 0.3),  # blocks at 2 and 3 tie
        (3, (2, 3, 4), 0.8),  # 0.8 at 0 and at 2
        (4, (1, 2, 3, 4), 0.9),
        (5, (0, 1, 2, 3, 4), 0.9),
    ],
)
def test_block_takes_the_least_distance_and_the_deeper_of_equals(count, dropped, score):
    made = plan("block", count)
    assert made.dropped == dropped
    assert made.score == score


def test_block_may_include_the_last_layer_when_it_is_the_least():
    last = D.copy()
    last[4, 6] = last[6, 4] = 0.05
    assert Block().plan(Target(2 / 6, 2), last, 0).dropped == (4, 5)


def test_the_last_layers_distance_is_large_so_block_keeps_it_here():
    assert all(5 not in plan("block", count).dropped for count in range(1, 6))


@pytest.mark.parametrize("count", range(1, 6))
def test_deepest_keeps_the_very_last_layer(count):
    made = plan("deepest", count)
    assert made.dropped == tuple(range(5 - count, 5))
    assert made.score == D[5 - count, 5]


@pytest.mark.parametrize(
    ("count", "dropped", "score"),
    [(1, (3,), 0.1), (2, (2, 3), 0.2), (3, (2, 3, 4), 0.4), (5, (1, 2, 3, 4, 5), 1.7)],
)
def test_scattered_takes_the_layers_that_change_least(count, dropped, score):
    made = plan("scattered", count)
    assert made.dropped == dropped
    assert made.score == pytest.approx(score)


def test_scattered_leaves_gaps():
    apart = D.copy()
    apart[0, 1] = 0.05
    assert Scattered().plan(Target(2 / 6, 2), apart, 0).dropped == (0, 3)


def test_random_follows_its_seed_and_only_adds_layers():
    drawn = [set(plan("random", count, seed=3).dropped) for count in range(1, 6)]
    assert all(small < large for small, large in itertools.pairwise(drawn))
    assert plan("random", 3, seed=3) == plan("random", 3, seed=3)
    assert len({plan("random", 3, seed=seed).dropped for seed in range(20)}) > 5


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_nothing_dropped_is_the_dense_model(strategy):
    made = plan(strategy, 0)
    assert made.dropped == ()
    assert made.kept == tuple(range(6))


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize("count", range(1, 6))
def test_dropped_and_kept_are_all_layers(strategy, count):
    made = plan(strategy, count)
    assert len(made.dropped) == count
    assert sorted(made.dropped + made.kept) == list(range(6))
    assert made.fraction == count / 6


def test_named_layers_are_taken_as_they_are():
    found, notes = targets(Block(layers=[4, 1]), 6)
    assert notes == []
    made = Block().plan(found[0], D, 0)
    assert (made.strategy, made.dropped) == ("given", (1, 4))


@pytest.mark.parametrize("layers", [[6], list(range(6))])
def test_named_layers_that_cannot_go_are_refused(layers):
    with pytest.raises(UserError, match=r"prune\.layers"):
        targets(Block(layers=layers), 6)


def test_number_of_layers_is_the_rounded_share():
    for fraction, count in ((0, 0), (0.25, 8), (0.5, 16), (0.26, 8), (0.99, 32)):
        if count == 32:
            with pytest.raises(UserError, match=r"prune\.fraction=0\.99"):
                num_dropped(fraction, 32)
        else:
            assert num_dropped(fraction, 32) == count


def test_fractions_that_round_alike_are_one_point_and_the_user_hears_of_it():
    found, notes = targets(Block(fraction=[0, 0.3, 0.32, 0.5]), 10)
    assert [target.count for target in found] == [0, 3, 5]
    assert found[1].fraction_asked == 0.3
    assert len(notes) == 1
    assert "0.32" in notes[0]


def test_scattered_says_how_many_layers_it_chose():
    distances_SS = np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0)))
    choice = STRATEGIES["scattered"].choose(distances_SS, 2, seed=0)
    assert choice.reason == "the 2 layers that change their input least"
