"""Random layers, for comparison."""

from random import Random

from layerprune.config.registry import strategy
from layerprune.prune.distance_matrix import Matrix
from layerprune.prune.plan import Choice
from layerprune.prune.strategies import DistanceStrategy


@strategy("random", reference="the baseline that a strategy has to beat")
class RandomLayers(DistanceStrategy):
    """The first layers of a shuffle by `seed`: a larger fraction only adds layers."""

    def choose(self, distances_SS: Matrix, count: int, seed: int) -> Choice:
        """Shuffle all layers and take the first `count`."""
        num_layers = len(distances_SS) - 1
        order = Random(seed).sample(range(num_layers), num_layers)
        reason = f"the first {count} of a shuffle, seed {seed}"
        return Choice(tuple(sorted(order[:count])), None, reason)
