"""Which points a job is asked for."""

from dataclasses import dataclass

from layerprune.config.schema import PruneConfig
from layerprune.errors import UserError
from layerprune.plan.plan import num_dropped


@dataclass(frozen=True)
class Target:
    """One point that was asked for: a number of layers, or layers by name."""

    fraction_asked: float
    count: int
    """Layers to drop."""
    layers: tuple[int, ...] | None = None
    """Just these, where the user named them."""


def targets(config: PruneConfig, num_layers: int) -> tuple[list[Target], list[str]]:
    """The points that `prune` asks for, and a line for each fraction that adds none.

    Fractions that round to the same number of layers are one point. Raises `UserError` where no
    layer would stay, or a named layer does not exist.
    """
    if config.layers is not None:
        outside = [layer for layer in config.layers if layer >= num_layers]
        if outside or len(config.layers) >= num_layers:
            raise UserError(
                f"prune.layers={config.layers}: this model has layers 0 to {num_layers - 1}, "
                "and at least one must stay."
            )
        count = len(config.layers)
        return [Target(count / num_layers, count, tuple(sorted(config.layers)))], []
    found: dict[int, Target] = {}
    notes = []
    for fraction in config.fraction:
        count = num_dropped(fraction, num_layers)
        if count in found:
            notes.append(
                f"prune.fraction={fraction} of {num_layers} layers is {count}, "
                f"as is {found[count].fraction_asked}: one point."
            )
        else:
            found[count] = Target(float(fraction), count)
    return list(found.values()), notes
