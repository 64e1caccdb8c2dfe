"""How well a model predicts held-out text.

Letters: B batch, T time, H hidden size, N positions, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from layerprune.model.stack import Head

POSITIONS_AT_ONCE = 2048
"""Logits are made for so many positions at a time: never for [B, T, V] as a whole."""


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


def heldout_loss(
    model: PreTrainedModel,
    ids_ST: Tensor,
    batch_size: int,
    advance: Callable[[int], None] = lambda sequences: None,
) -> Loss:
    """The loss on token sequences [S, T]: every token after the first is predicted, T >= 2."""
    head = Head(model)
    decoder = model.get_decoder()
    means: list[float] = []
    with torch.inference_mode():
        for ids_BT in ids_ST.split(batch_size):
            ids_BT = ids_BT.to(model.device)
            hidden_BTH = decoder(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1]
            target_BT = ids_BT[:, 1:]
            nats_N = torch.cat(
                [
                    torch.nn.functional.cross_entropy(
                        head(hidden).float(), target, reduction="none"
                    )
                    for hidden, target in zip(
                        hidden_BTH.flatten(0, 1).split(POSITIONS_AT_ONCE),
                        target_BT.flatten().split(POSITIONS_AT_ONCE),
                        strict=True,
                    )
                ]
            )
            means += nats_N.double().view(target_BT.shape).mean(dim=1).tolist()
            advance(len(ids_BT))
    count = len(means)
    mean = math.fsum(means) / count
    spread = math.fsum((value - mean) ** 2 for value in means)
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    return Loss(
        nats=mean,
        normalised=mean / math.log(vocabulary),
        stderr=math.sqrt(spread / (count - 1) / count) if count > 1 else 0.0,
        num_sequences=count,
    )
