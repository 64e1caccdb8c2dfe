"""The single layers that change their input least, wherever they stand."""

import numpy as np
from numpy.typing import NDArray

from layerprune.plan.plan import Choice, Matrix


def scattered(distances_SS: Matrix, count: int, seed: int) -> Choice:
    """The `count` layers l with the least distance between state l and state l+1.

    Of equal ones the deepest. All are chosen at once, from the whole model. Source: ShortGPT (Men
    et al., arXiv 2403.03853, section 3.2), there with the cosine over all tokens.
    """
    distance_L = np.diagonal(distances_SS, offset=1)
    layers = tuple(sorted(cheapest_first(distance_L)[:count]))
    score = float(distance_L[list(layers)].sum())
    return Choice(layers, score, f"the {count} layers that change their input least")


def cheapest_first(distance_L: NDArray[np.float64]) -> list[int]:
    """Layers by rising distance; of equal ones the deepest first."""
    deepest_first = np.arange(len(distance_L))[::-1]
    order = deepest_first[np.argsort(distance_L[deepest_first], kind="stable")]
    return [int(layer) for layer in order]
