"""Points that a job asks for: numbers of layers, or layers by name."""

from dataclasses import dataclass

from layerprune.config.schema import PruneOptions
from layerprune.errors import UserError


@dataclass(frozen=True)
class Target:
    """One point of a job."""

    fraction_asked: float
    count: int
    """Layers to remove."""
    layers: tuple[int, ...] | None = None
    """These layers, if the user named them."""


def targets(options: PruneOptions, num_layers: int) -> tuple[list[Target], list[str]]:
    """Return the points that `prune` asks for, and a line for each fraction that adds none.

    Fractions that round to the same number of layers are one point. Raises `UserError` if no layer
    would remain or a named layer does not exist.
    """
    if options.layers is not None:
        outside = [layer for layer in options.layers if layer >= num_layers]
        if outside or len(options.layers) >= num_layers:
            raise UserError(
                f"prune.layers={options.layers}: this model has layers 0 to {num_layers - 1}, "
                "and at least one must remain."
            )
        count = len(options.layers)
        return [Target(count / num_layers, count, tuple(sorted(options.layers)))], []
    if options.layers_dropped is not None:
        most = max(options.layers_dropped)
        if most >= num_layers:
            raise UserError(
                f"prune.layers_dropped={most} would remove all {num_layers} layers: "
                f"use at most {num_layers - 1}."
            )
        counts = dict.fromkeys(options.layers_dropped)
        return [Target(count / num_layers, count) for count in counts], []
    by_count: dict[int, Target] = {}
    notes = []
    for fraction in options.fraction:
        count = num_dropped(fraction, num_layers)
        if count in by_count:
            notes.append(
                f"prune.fraction={fraction} of {num_layers} layers is {count}, "
                f"like {by_count[count].fraction_asked}: one point."
            )
        else:
            by_count[count] = Target(float(fraction), count)
    return list(by_count.values()), notes


def num_dropped(fraction: float, num_layers: int) -> int:
    """Return round(fraction * num_layers); raise `UserError` if no layer would remain."""
    count = round(fraction * num_layers)
    if count >= num_layers:
        raise UserError(
            f"prune.fraction={fraction} would remove all {num_layers} layers: "
            f"use at most {num_layers - 1} of {num_layers}."
        )
    return count
