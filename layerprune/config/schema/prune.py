"""Which layers go."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from layerprune.errors import UserError

DEFAULT_FRACTIONS = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


@dataclass(kw_only=True, slots=True)
class PruneConfig:
    """Which layers go: a strategy with fractions, or layers by name."""

    strategy: str = MISSING
    """One of the strategies; `prune=NAME` sets it."""
    fraction: Any = None
    """A number in [0, 1) or a list of them; a stack of L layers loses round(fraction * L) layers.
    Nothing given, and no `layers` either: 0 to 0.5 in steps of 0.1."""
    layers: list[int] | None = None
    """Original indices, 0-based, of the layers to drop, in place of a strategy's choice."""

    def __post_init__(self) -> None:
        if self.layers is not None:
            if self.fraction is not None:
                raise UserError("prune.fraction and prune.layers exclude each other: give one.")
            if len(set(self.layers)) != len(self.layers) or min(self.layers, default=0) < 0:
                raise UserError(
                    f"prune.layers={self.layers}: layers are distinct indices counted from 0."
                )
            return
        if self.fraction is None:
            self.fraction = list(DEFAULT_FRACTIONS)
        if not isinstance(self.fraction, list):
            self.fraction = [self.fraction]
        if not self.fraction:
            raise UserError("prune.fraction=[] is empty: give at least one number in [0, 1).")
        for value in self.fraction:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise UserError(
                    f"prune.fraction={value}: a fraction is a number from 0 up to, "
                    "not including, 1."
                )
