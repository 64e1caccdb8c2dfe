"""What a metric says of a model: the one door to all of them.

Letters: N sequences, T time, L layers, S = L + 1 states.
"""

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from layerprune.config.schema import MetricConfig, Tokens
from layerprune.errors import UserError
from layerprune.paths.room import Room
from layerprune.progress import bar
from layerprune.similarity.layer_scores import LAYER_SCORES, added_up
from layerprune.similarity.metrics import METRICS
from layerprune.similarity.profile import Matrix
from layerprune.similarity.states import mean_distances

BATCH = 8

TRY_DTYPE = "Try model.dtype=bfloat16 or model.dtype=float32."


def measure(
    model: PreTrainedModel,
    metric: MetricConfig,
    ids_NT: Tensor,
    seed: int,
    room: Room | None = None,
) -> Matrix:
    """Distances [S, S] by `metric`, measured on token sequences [N, T].

    Those of metrics that score layers are sums over a block's layers; `seed` matters to
    `metric=random` alone. `room`: as `mean_distances` says. Raises `UserError` if one is not a
    number.
    """
    if metric.name in LAYER_SCORES:
        matrix_SS = added_up(LAYER_SCORES[metric.name](model, ids_NT, seed, room))
    else:
        batches = (
            (ids_BT, torch.full((len(ids_BT),), ids_BT.shape[1])) for ids_BT in ids_NT.split(BATCH)
        )
        with bar(f"{metric.name} distances", total=len(ids_NT)) as advance:
            matrix_SS = mean_distances(
                model, batches, METRICS[metric.name], metric.tokens or Tokens.last, advance, room
            )
    if not np.isfinite(matrix_SS).all():
        raise UserError(f"metric={metric.name} gives distances that are not numbers. {TRY_DTYPE}")
    return matrix_SS
