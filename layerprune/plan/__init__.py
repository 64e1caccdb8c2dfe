"""Which layers go: a plan is plain data, made before any tensor is touched."""

from collections.abc import Callable

from layerprune.plan.block import block
from layerprune.plan.deepest import deepest
from layerprune.plan.greedy import greedy
from layerprune.plan.order import Order
from layerprune.plan.plan import Choice, Matrix, Plan
from layerprune.plan.random import random
from layerprune.plan.scattered import scattered
from layerprune.plan.target import Target

Strategy = Callable[[Matrix, int, int], Choice]
"""From distances [L+1, L+1], number of layers to drop and seed to the chosen layers."""

STRATEGIES: dict[str, Strategy] = {
    "block": block, "deepest": deepest, "scattered": scattered, "random": random,
}  # fmt: skip
"""Every strategy that reads distances by the name that `prune=` takes."""

GREEDY = "greedy"
"""The strategy that measures again after each layer that goes: it follows an `Order`."""


def make_plan(target: Target, strategy: str, distances_SS: Matrix, seed: int) -> Plan:
    """The plan for a point: the layers named by the user, or those that `strategy` chooses.

    With no layer to drop it is the dense model's, whatever the strategy.
    """

    def choose() -> Choice:
        return STRATEGIES[strategy](distances_SS, target.count, seed)

    return _plan(target, strategy, len(distances_SS) - 1, choose)


def follow(target: Target, order: Order, num_layers: int) -> Plan:
    """The plan for a point of `prune=greedy`, likewise; the order must be long enough."""
    return _plan(target, GREEDY, num_layers, lambda: greedy(order, target.count))


def _plan(target: Target, strategy: str, num_layers: int, choose: Callable[[], Choice]) -> Plan:
    if target.layers is not None:
        return Plan("given", num_layers, target.layers, None, "named by the user")
    choice = choose() if target.count else Choice((), None, "the dense model")
    assert len(choice.layers) == target.count, (strategy, choice)
    return Plan(strategy, num_layers, tuple(sorted(choice.layers)), choice.score, choice.reason)
