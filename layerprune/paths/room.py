"""How much may be in memory at once, beside the model.

Letters: H hidden size, I width of a layer's feed-forward part, V vocabulary.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from shutil import disk_usage
from typing import Any

import torch
from transformers import PreTrainedModel

from layerprune import memory
from layerprune.model.spread import devices
from layerprune.model.stack import text_config
from layerprune.progress import say

SHARE_OF_FREE = 0.5
"""Of what is free now, without a budget: others may need some, and it is an estimate."""

MOST_TOKENS = {"cpu": 1024, "cuda": 16384}
"""More than these bring no speed: on a CPU what a layer works on should stay in its caches."""

MOST_LOGITS = 2**24
"""Some hundred positions: with fewer the weights of the head are read more than they are used."""

LEAST_TOKENS = 16


@dataclass(frozen=True)
class Room:
    """What fits into a budget of bytes."""

    tokens: int
    """That run through a layer together."""
    waiting: int
    """Whose states are held where paths part, of all batches and all such places together."""
    logits: int
    """That are made at once."""
    spill: Path | None = None
    """A folder for states that wait, in place of memory."""

    @classmethod
    def of(
        cls, model: PreTrainedModel, budget: int | None = None, spill: Path | None = None
    ) -> "Room":
        """What fits for a model in a budget of bytes, by default half of what is free now.

        With `spill`, a folder, states wait there, as many as half of its disk's free space holds.
        """
        places = devices(model)
        if budget is None:
            budget = int(min(map(memory.free, places)) * SHARE_OF_FREE)
        config: Any = text_config(model)
        hidden = int(config.hidden_size)
        width = int(getattr(config, "intermediate_size", None) or 4 * hidden)
        size = model.dtype.itemsize
        # A layer's input, residual, norm, queries, keys, values, attention and its output; what
        # stands between the projections of its feed-forward part, with room for a mask.
        a_token = (10 * hidden + 4 * width) * size
        # Logits, their log-softmax, and a copy in float32.
        a_logit = 2 * size + 4
        waiting = budget // 2 if spill is None else int(disk_usage(spill).free * SHARE_OF_FREE)
        most = MOST_TOKENS.get(places[0].type, MOST_TOKENS["cuda"])
        return cls(
            tokens=min(most, max(LEAST_TOKENS, budget // 4 // a_token)),
            waiting=max(LEAST_TOKENS, waiting // (hidden * size)),
            logits=min(MOST_LOGITS, max(1, budget // 4 // a_logit)),
            spill=spill,
        )


def smaller(room: Room, error: Exception) -> Room:
    """Half the room, where an error says that memory was too little; raise it again otherwise."""
    # On a CPU it is a RuntimeError like any other.
    too_little = isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
    if not too_little or room.tokens <= LEAST_TOKENS:
        raise error
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
    half = replace(
        room,
        tokens=max(LEAST_TOKENS, room.tokens // 2),
        waiting=room.waiting // 2,
        logits=room.logits // 2,
    )
    say(f"Memory is too little: {half.tokens} tokens at a time from here on.")
    return half
