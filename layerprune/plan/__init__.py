"""Which layers go: a plan is plain data, made before any tensor is touched."""

from collections.abc import Callable

from layerprune.plan.block import block
from layerprune.plan.deepest import deepest
from layerprune.plan.plan import Choice, Matrix, Plan
from layerprune.plan.random import random
from layerprune.plan.scattered import scattered
from layerprune.plan.target import Target

Strategy = Callable[[Matrix, int, int], Choice]
"""From distances [L+1, L+1], number of layers to drop and seed to the chosen layers."""

STRATEGIES: dict[str, Strategy] = {
    "block": block, "deepest": deepest, "scattered": scattered, "random": random,
}  # fmt: skip
"""Every strategy by the name that `prune=` takes."""


def make_plan(target: Target, strategy: str, distances_SS: Matrix, seed: int) -> Plan:
    """The plan for a point: the layers named by the user, or those that `strategy` chooses.

    With no layer to drop it is the dense model's, whatever the strategy.
    """
    num_layers = len(distances_SS) - 1
    if target.layers is not None:
        return Plan("given", num_layers, target.layers, None, "named by the user")
    if target.count == 0:
        choice = Choice((), None, "the dense model")
    else:
        choice = STRATEGIES[strategy](distances_SS, target.count, seed)
    assert len(choice.layers) == target.count, (strategy, choice)
    return Plan(strategy, num_layers, tuple(sorted(choice.layers)), choice.score, choice.reason)
