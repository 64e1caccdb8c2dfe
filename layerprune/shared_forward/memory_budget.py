"""Derive from a budget of bytes how much a pass may hold in memory at once, beside the model."""

from dataclasses import dataclass, replace
from pathlib import Path
from shutil import disk_usage
from typing import Any

import torch
from transformers import PreTrainedModel

from layerprune.model.offload import devices
from layerprune.model.stack import text_config
from layerprune.runtime import memory
from layerprune.runtime.progress import say

FREE_MEMORY_SHARE = 0.5
"""Share of free memory that is used by default: others may need some, and it is an estimate."""

MAX_TOKENS = {"cpu": 1024, "cuda": 16384}
"""More tokens at once bring no speed: on a CPU a layer's working set should fit into its caches."""

MAX_LOGITS = 2**24
"""Some hundred positions: with fewer, the head's weights are read more than they are used."""

MIN_TOKENS = 16


@dataclass(frozen=True)
class MemoryBudget:
    """Numbers of tokens and logits that fit into a budget of bytes."""

    tokens: int
    """Tokens that run through a layer together."""
    buffered_tokens: int
    """Tokens whose states are buffered where paths branch, of all batches and branches together."""
    logits: int
    """Logits that are computed at once."""
    spill: Path | None = None
    """Folder that buffered states are spilled to, instead of memory."""

    @classmethod
    def of(
        cls, model: PreTrainedModel, budget: int | None = None, spill: Path | None = None
    ) -> "MemoryBudget":
        """Return what fits for a model in `budget` bytes, by default half of the free memory.

        With the folder `spill` states are buffered there, in half of its disk's free space.
        """
        places = devices(model)
        if budget is None:
            budget = int(min(map(memory.free, places)) * FREE_MEMORY_SHARE)
        config: Any = text_config(model)
        hidden = int(config.hidden_size)
        width = int(getattr(config, "intermediate_size", None) or 4 * hidden)
        size = model.dtype.itemsize
        # A layer's input, residual, norm, queries, keys, values, attention and output; between the
        # feed-forward projections four times their width, which leaves some for a mask.
        token_bytes = (10 * hidden + 4 * width) * size
        # Logits, their log-softmax, and a copy in float32.
        logit_bytes = 2 * size + 4
        buffer = budget // 2 if spill is None else int(disk_usage(spill).free * FREE_MEMORY_SHARE)
        max_tokens = MAX_TOKENS.get(places[0].type, MAX_TOKENS["cuda"])
        return cls(
            tokens=min(max_tokens, max(MIN_TOKENS, budget // 4 // token_bytes)),
            buffered_tokens=max(MIN_TOKENS, buffer // (hidden * size)),
            logits=min(MAX_LOGITS, max(1, budget // 4 // logit_bytes)),
            spill=spill,
        )


def halved(memory_budget: MemoryBudget, error: Exception) -> MemoryBudget:
    """Return half of the budget if `error` is an out-of-memory error; otherwise raise it again."""
    # On a CPU it is an ordinary RuntimeError.
    out_of_memory = isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
    if not out_of_memory or memory_budget.tokens <= MIN_TOKENS:
        raise error
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
    half = replace(
        memory_budget,
        tokens=max(MIN_TOKENS, memory_budget.tokens // 2),
        buffered_tokens=memory_budget.buffered_tokens // 2,
        logits=memory_budget.logits // 2,
    )
    say(f"Out of memory: going on with {half.tokens} tokens at a time.")
    return half
