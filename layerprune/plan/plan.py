"""What a plan is.

Letters: L layers, S = L + 1 states.
"""

from dataclasses import dataclass
from typing import NamedTuple

from layerprune.errors import UserError
from layerprune.similarity.profile import Matrix as Matrix


class Choice(NamedTuple):
    """What a strategy answers."""

    layers: tuple[int, ...]
    score: float | None
    """The distance that decided, where one did."""
    reason: str


@dataclass(frozen=True)
class Plan:
    """The layers to drop from a stack, as original 0-based indices, and why these."""

    strategy: str
    num_layers: int
    """Layers in the original stack."""
    dropped: tuple[int, ...]
    """In rising order."""
    score: float | None
    reason: str

    @property
    def kept(self) -> tuple[int, ...]:
        """The layers that stay, in rising order: entry `slot` is that slot's original layer."""
        return tuple(layer for layer in range(self.num_layers) if layer not in self.dropped)

    @property
    def fraction(self) -> float:
        """The share of layers that is really dropped."""
        return len(self.dropped) / self.num_layers


def num_dropped(fraction: float, num_layers: int) -> int:
    """Layers that a fraction of a stack comes to: round(fraction * num_layers).

    Raises `UserError` where none would stay.
    """
    count = round(fraction * num_layers)
    if count >= num_layers:
        raise UserError(
            f"prune.fraction={fraction} would drop all {num_layers} layers: "
            f"at most {num_layers - 1} can go."
        )
    return count
