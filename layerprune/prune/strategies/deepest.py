"""The deepest layers except the last, without any measurement."""

from layerprune.config.registry import strategy
from layerprune.prune.distance_matrix import Matrix
from layerprune.prune.plan import Choice
from layerprune.prune.strategies import DistanceStrategy


@strategy("deepest", reference="the simple heuristic of Gromov et al., section 3.2")
class Deepest(DistanceStrategy):
    """The deepest layers except the very last: L-n-1 ... L-2 of 0 ... L-1."""

    def choose(self, distances_SS: Matrix, count: int, seed: int) -> Choice:
        """Keep layer L-1, which the paper's own text, counting from 1, calls L."""
        last = len(distances_SS) - 2
        start = last - count
        score = float(distances_SS[start, last])
        return Choice(tuple(range(start, last)), score, f"the {count} layers before the last")
