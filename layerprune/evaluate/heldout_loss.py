"""The loss of models on held-out text.

Letters: T time, S sequences.
"""

import hashlib
import math
from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from layerprune.evaluate.answer_cache import AnswerCache
from layerprune.model.stack import decoder_stack, text_config
from layerprune.record.point import HeldoutLoss
from layerprune.shared_forward.losses import sequence_losses
from layerprune.shared_forward.memory_budget import MemoryBudget
from layerprune.shared_forward.prefix_tree import LayerPath


def heldout_loss(model: PreTrainedModel, ids_ST: Tensor, memory: int | None = None) -> HeldoutLoss:
    """Return the loss of a model on token sequences [S, T], T >= 2, without each first token.

    `memory` is a budget in bytes, by default half of what is free.
    """
    every_layer = tuple(range(len(decoder_stack(model).layers)))
    return heldout_losses(model, ids_ST, [every_layer], MemoryBudget.of(model, memory))[0]


def heldout_losses(
    model: PreTrainedModel,
    ids_ST: Tensor,
    paths: Sequence[LayerPath],
    memory_budget: MemoryBudget,
    cache: AnswerCache | None = None,
) -> list[HeldoutLoss]:
    """Return the losses of the cut models that keep the layers of each path.

    Those that are not in `cache` are computed in one pass, and stored there.
    """
    cache = cache or AnswerCache()
    key = f"loss-{hashlib.sha256(ids_ST.long().numpy().tobytes()).hexdigest()[:16]}-{len(ids_ST)}"
    cached = cache.read(key)
    losses = {path: [value for value, _ in cached.get(path) or ()] for path in paths}
    if missing := [path for path, means in losses.items() if not means]:
        new = sequence_losses(model, ids_ST, missing, "held-out loss", memory_budget)
        losses |= zip(missing, new, strict=True)
        with cache.locked(key) as latest:
            assert latest is not None
            latest.add(missing, [[(value, False) for value in means] for means in new])
    vocabulary = int(text_config(model).vocab_size)
    return [_loss(losses[path], vocabulary) for path in paths]


def _loss(means: Sequence[float], vocabulary: int) -> HeldoutLoss:
    count = len(means)
    mean = math.fsum(means) / count
    squares = math.fsum((value - mean) ** 2 for value in means)
    return HeldoutLoss(
        nats=mean,
        normalised=mean / math.log(vocabulary),
        stderr=math.sqrt(squares / (count - 1) / count) if count > 1 else 0.0,
        num_sequences=count,
    )
