"""What the smallest model has to do."""

from dataclasses import dataclass

from layerprune.config.size import num_bytes
from layerprune.errors import UserError


@dataclass(kw_only=True, slots=True)
class FitConfig:
    """A budget: given any of it, the smallest model within it is looked for."""

    keep: float | None = None
    """Share of the dense model's margin over chance that has to stay, on `eval.tasks`: as many
    layers go as that allows."""
    memory: str | None = None
    """What the weights of the exported model may take at most, as in `6GiB`. Without `keep` no more
    layers go than that needs."""
    speedup: float | None = None
    """How many times fewer operations a token has to take; how many times as fast text has to be
    written, where `eval.speed.rounds` measures that."""

    @property
    def asked(self) -> bool:
        """Whether there is a budget."""
        return (self.keep, self.memory, self.speedup) != (None, None, None)

    @property
    def memory_bytes(self) -> int | None:
        """`memory` as a number."""
        return None if self.memory is None else num_bytes(self.memory)

    def __post_init__(self) -> None:
        if self.keep is not None and not 0 < self.keep <= 1:
            nearest = "fit.keep=1, all of it" if self.keep > 1 else "a number above 0, such as 0.5"
            raise UserError(
                f"fit.keep={self.keep:g}: it is a share of what the dense model has over chance; "
                f"the nearest that can be asked is {nearest}."
            )
        try:
            enough = self.memory_bytes is None or self.memory_bytes > 0
        except ValueError:
            enough = False
        if not enough:
            raise UserError(f"fit.memory={self.memory}: give a size such as 500MB or 6GiB.")
        if self.speedup is not None and not self.speedup > 1:
            raise UserError(
                f"fit.speedup={self.speedup:g}: the dense model has 1; ask for more, such as 1.2."
            )
