"""Importances without a reason, for comparison."""

from random import Random

from torch import Tensor
from transformers import PreTrainedModel

from layerprune.model.stack import decoder_stack
from layerprune.paths.room import Room


def random(
    model: PreTrainedModel, ids_ST: Tensor, seed: int, room: Room | None = None
) -> list[float]:
    """Of each layer, a number in [0, 1) drawn by `seed`; text and weights change nothing."""
    dice = Random(seed)
    return [dice.random() for _ in decoder_stack(model).layers]
