"""How well models predict held-out text.

Letters: T time, S sequences.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from layerprune.model.stack import decoder_stack
from layerprune.paths.losses import losses
from layerprune.paths.tree import Path


@dataclass(frozen=True)
class Loss:
    """Mean next-token cross-entropy over sequences."""

    nats: float
    """Per token."""
    normalised: float
    """Divided by ln V: 1 is guessing evenly (Gromov et al., arXiv 2403.17887, figure 3)."""
    stderr: float
    """Standard error of `nats` over sequences; 0 for a single one."""
    num_sequences: int


def heldout_loss(model: PreTrainedModel, ids_ST: Tensor, batch_size: int) -> Loss:
    """The loss of a model on token sequences [S, T]: every token after the first is predicted.

    T must be at least 2.
    """
    every_layer = tuple(range(len(decoder_stack(model).layers)))
    return heldout_losses(model, ids_ST, batch_size, [every_layer])[0]


def heldout_losses(
    model: PreTrainedModel, ids_ST: Tensor, batch_size: int, paths: Sequence[Path]
) -> list[Loss]:
    """The losses of cut models, each of which keeps the layers of a path, in one pass."""
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    found = losses(model, ids_ST, batch_size, paths, "held-out loss")
    return [_loss(means, vocabulary) for means in found]


def _loss(means: Sequence[float], vocabulary: int) -> Loss:
    count = len(means)
    mean = math.fsum(means) / count
    spread = math.fsum((value - mean) ** 2 for value in means)
    return Loss(
        nats=mean,
        normalised=mean / math.log(vocabulary),
        stderr=math.sqrt(spread / (count - 1) / count) if count > 1 else 0.0,
        num_sequences=count,
    )
