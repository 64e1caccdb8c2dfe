"""What the loss rises by without a layer (SLEB, Song et al., arXiv 2402.09025)."""

import math

from torch import Tensor
from transformers import PreTrainedModel

from layerprune.model.stack import decoder_stack
from layerprune.paths.losses import losses
from layerprune.paths.room import Room


def perplexity(
    model: PreTrainedModel, ids_ST: Tensor, seed: int, room: Room | None = None
) -> list[float]:
    """Of each layer, the loss without it minus the whole model's, in nats per token.

    Negative where the text is predicted better without it. It is the logarithm of the ratio of two
    perplexities, and ranks layers as these do. All models without one layer run in one pass, in
    which what lies below a missing layer runs once.
    """
    whole = tuple(range(len(decoder_stack(model).layers)))
    without = [(*whole[:layer], *whole[layer + 1 :]) for layer in whole]
    room = room or Room.of(model)
    dense, *cut = losses(model, ids_ST, [whole, *without], "loss without each layer", room)
    return [(math.fsum(each) - math.fsum(dense)) / len(dense) for each in cut]
