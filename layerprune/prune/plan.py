"""Plans: the layers that a pruned model loses, and why these."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from layerprune.prune.target import Target


class Choice(NamedTuple):
    """The layers that a strategy chooses."""

    layers: tuple[int, ...]
    score: float | None
    """The distance that decided, if one did."""
    reason: str


@dataclass(frozen=True)
class Plan:
    """The layers to remove from a stack, as original 0-based indices, and why these."""

    strategy: str
    num_layers: int
    """Layers in the original stack."""
    dropped: tuple[int, ...]
    """In rising order."""
    score: float | None
    reason: str

    @property
    def kept(self) -> tuple[int, ...]:
        """The remaining layers, in rising order: entry `slot` is that slot's original layer."""
        return tuple(layer for layer in range(self.num_layers) if layer not in self.dropped)

    @property
    def fraction(self) -> float:
        """The fraction of layers that is actually removed."""
        return len(self.dropped) / self.num_layers


def make_plan(
    strategy: str, target: Target, num_layers: int, choose: Callable[[int], Choice]
) -> Plan:
    """Return the plan for a point: the layers that the user named, or `choose(count)`.

    With no layer to remove it is the dense model's, whatever the strategy.
    """
    if target.layers is not None:
        return Plan("given", num_layers, target.layers, None, "named by the user")
    choice = choose(target.count) if target.count else Choice((), None, "the dense model")
    assert len(choice.layers) == target.count, (strategy, choice)
    return Plan(strategy, num_layers, tuple(sorted(choice.layers)), choice.score, choice.reason)
