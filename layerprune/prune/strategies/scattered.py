"""The single layers that change their input least, anywhere in the model."""

from layerprune.config.registry import strategy
from layerprune.prune.distance_matrix import Matrix
from layerprune.prune.plan import Choice
from layerprune.prune.strategies import DistanceStrategy


@strategy("scattered", reference="ShortGPT, Men et al., arXiv 2403.03853, section 3.2")
class Scattered(DistanceStrategy):
    """The layers l with the smallest distance between state l and state l+1.

    All are chosen at once, from the dense model. The paper uses the cosine over all tokens.
    """

    def choose(self, distances_SS: Matrix, count: int, seed: int) -> Choice:
        """Choose the cheapest layers; the score is the sum of their distances."""
        distance_L = distances_SS.diagonal(1)
        layers = tuple(sorted(cheapest_first(distance_L)[:count]))
        score = float(distance_L[list(layers)].sum())
        return Choice(layers, score, f"the {count} layers that change their input least")


def cheapest_first(distance_L: Matrix) -> list[int]:
    """Return layers by rising distance; of equal ones the deepest first."""
    last = len(distance_L) - 1
    return [last - int(back) for back in distance_L[::-1].argsort(kind="stable")]
