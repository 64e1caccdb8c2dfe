"""How well models predict held-out text.

Letters: T time, S sequences.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from layerprune.model.stack import decoder_stack, text_config
from layerprune.paths.losses import losses
from layerprune.paths.room import Room
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


def heldout_loss(model: PreTrainedModel, ids_ST: Tensor, memory: int | None = None) -> Loss:
    """The loss of a model on token sequences [S, T]: every token after the first is predicted.

    T must be at least 2. `memory` is a budget in bytes, half of what is free by default.
    """
    every_layer = tuple(range(len(decoder_stack(model).layers)))
    return heldout_losses(model, ids_ST, [every_layer], Room.of(model, memory))[0]


def heldout_losses(
    model: PreTrainedModel, ids_ST: Tensor, paths: Sequence[Path], room: Room
) -> list[Loss]:
    """The losses of cut models, each of which keeps the layers of a path, in one pass."""
    vocabulary = int(text_config(model).vocab_size)
    found = losses(model, ids_ST, paths, "held-out loss", room)
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
