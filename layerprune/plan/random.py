"""Layers without a reason, for comparison."""

from random import Random

from layerprune.plan.plan import Choice, Matrix


def random(distances_SS: Matrix, count: int, seed: int) -> Choice:
    """The first `count` layers of a shuffle by `seed`: a larger count only adds layers."""
    num_layers = len(distances_SS) - 1
    order = Random(seed).sample(range(num_layers), num_layers)
    return Choice(
        tuple(sorted(order[:count])), None, f"the first {count} of a shuffle, seed {seed}"
    )
