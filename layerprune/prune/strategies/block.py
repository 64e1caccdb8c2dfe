"""The block of layers whose two ends are the most similar."""

from layerprune.config.registry import strategy
from layerprune.prune.distance_matrix import Matrix
from layerprune.prune.plan import Choice
from layerprune.prune.strategies import DistanceStrategy


@strategy("block", reference="Gromov et al., arXiv 2403.17887, section 3.2")
class Block(DistanceStrategy):
    """The layers l ... l+n-1 with the smallest distance between state l and state l+n."""

    def choose(self, distances_SS: Matrix, count: int, seed: int) -> Choice:
        """Choose among all L-n+1 positions: l*(n) = argmin_l d(x^(l), x^(l+n))."""
        start, score = best_block(distances_SS, count)
        reason = f"least distance, {score:.4f}, of {len(distances_SS) - count} blocks of {count}"
        return Choice(tuple(range(start, start + count)), score, reason)


def best_block(distances_SS: Matrix, count: int) -> tuple[int, float]:
    """Return the first layer of the most similar block and its distance; the deepest of equals."""
    distance_l = distances_SS.diagonal(count)
    start = len(distance_l) - 1 - int(distance_l[::-1].argmin())
    return start, float(distance_l[start])
