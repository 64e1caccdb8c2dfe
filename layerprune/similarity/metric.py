"""What a metric of hidden states is.

Letters: N tokens, S states of each, H hidden size.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def _itself(mean_SS: Tensor) -> Tensor:
    return mean_SS


@dataclass(frozen=True)
class Metric:
    """How far apart the states of a model are: a mean over tokens, and what is made of it."""

    summed: Callable[[Tensor], Tensor]
    """From states [N, S, H] to a statistic of every two of them, summed over the N tokens: [S, S],
    float64. A statistic of all N together counts N times."""
    distances: Callable[[Tensor], Tensor] = _itself
    """From the mean of that over all sequences [S, S] to distances [S, S]."""
