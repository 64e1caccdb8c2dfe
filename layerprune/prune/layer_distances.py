"""Distances between the inputs of every two layers of a model, by any metric.

Letters: N sequences, T time, L layers, S = L + 1 states (see `hidden_states`).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerprune.config.schema import MetricOptions, Tokens
from layerprune.errors import UserError
from layerprune.prune.distance_matrix import Matrix
from layerprune.prune.hidden_states import mean_distances
from layerprune.prune.metrics import LayerMetric, MetricContext, TokenMetric
from layerprune.prune.metrics.angular import Angular
from layerprune.runtime.progress import progress_bar

BATCH = 8

TRY_DTYPE = "Try model.dtype=bfloat16 or model.dtype=float32."


def layer_distances(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    batch_size: int = 8,
    max_length: int = 1024,
) -> Matrix:
    """Return the mean angular distance between the inputs of every two layers on `texts`.

    Returns a float64 array [L+1, L+1] in units of pi (0.5 = orthogonal): entry [l, l+n] is the
    distance between the input of layer l and the input of layer l+n, and row or column L is the
    last layer's output before the final norm. Each text counts once, by its last token; it is
    truncated to `max_length` tokens. The vocabulary head is not run.

    Source: Gromov et al., arXiv 2403.17887, section 3.2. Raises `ValueError` if there is no text,
    and `UnsupportedArchitecture` if the model's layers cannot be found.
    """
    rows = [tokenizer(text, truncation=True, max_length=max_length)["input_ids"] for text in texts]
    if not rows or not all(rows):
        raise ValueError("layer_distances needs at least one text, with at least one token each.")
    ids = [torch.tensor(row) for row in rows]
    batches = (
        (pad_sequence(batch, batch_first=True), torch.tensor([len(row) for row in batch]))
        for batch in (ids[start : start + batch_size] for start in range(0, len(ids), batch_size))
    )
    return mean_distances(model, batches, Angular(tokens=Tokens.last))


def measure_distances(metric: MetricOptions, context: MetricContext) -> Matrix:
    """Return distances [S, S] by `metric`.

    For metrics that score layers, the distance across a block is the sum over its layers. Raises
    `UserError` if a distance is not a number.
    """
    if isinstance(metric, LayerMetric):
        matrix_SS = block_sums(metric.importance(context))
    else:
        assert isinstance(metric, TokenMetric)
        ids_NT = context.ids_NT
        batches = (
            (ids_BT, torch.full((len(ids_BT),), ids_BT.shape[1])) for ids_BT in ids_NT.split(BATCH)
        )
        with progress_bar(f"{metric.name} distances", total=len(ids_NT)) as advance:
            matrix_SS = mean_distances(
                context.model, batches, metric, advance, context.memory_budget
            )
    if not np.isfinite(matrix_SS).all():
        raise UserError(f"metric={metric.name} gives distances that are not numbers. {TRY_DTYPE}")
    return matrix_SS


def block_sums(importance_L: Sequence[float]) -> Matrix:
    """Return importances of blocks [S, S]: entry [l, l+n] is the sum over layers l ... l+n-1.

    It assumes that layers matter independently of each other; `prune=greedy` does not.
    """
    below_S = np.concatenate([[0.0], np.cumsum(np.array(importance_L, dtype=np.float64))])
    upper_SS = np.triu(below_S[None, :] - below_S[:, None])
    matrix_SS = upper_SS + upper_SS.T
    # A single layer's is exact, not the rounded difference of two sums.
    for offset in (1, -1):
        rows = np.arange(len(importance_L)) + (offset < 0)
        matrix_SS[rows, rows + offset] = importance_L
    return matrix_SS
