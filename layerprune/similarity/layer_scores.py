"""Metrics that say of each layer how much it matters, and of blocks by adding up.

Letters: L layers, S = L + 1 states.
"""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from layerprune.paths.room import Room
from layerprune.similarity.perplexity import perplexity
from layerprune.similarity.profile import Matrix
from layerprune.similarity.random import random
from layerprune.similarity.taylor import taylor

LayerScore = Callable[[PreTrainedModel, Tensor, int, Room | None], list[float]]
"""From a model, token ids [N, T], a seed and what fits into memory, for those that run many models
at once, to the importance of each layer; the higher, the more is lost without it."""

LAYER_SCORES: dict[str, LayerScore] = {"perplexity": perplexity, "taylor": taylor, "random": random}
"""Every such metric by the name that `metric=` takes."""


def added_up(importance_L: Sequence[float]) -> Matrix:
    """Importances of blocks [S, S]: entry [l, l+n] is the sum of those of layers l ... l+n-1.

    That layers matter independently of each other is an assumption; `prune=greedy` makes it not.
    """
    below_S = np.concatenate([[0.0], np.cumsum(np.array(importance_L, dtype=np.float64))])
    upper_SS = np.triu(below_S[None, :] - below_S[:, None])
    matrix_SS: Matrix = upper_SS + upper_SS.T
    # A single layer's is its own, not what rounding leaves of a difference of sums.
    for offset in (1, -1):
        rows = np.arange(len(importance_L)) + (offset < 0)
        matrix_SS[rows, rows + offset] = importance_L
    return matrix_SS
