"""Derive from a budget of bytes how much a pass may hold in memory at once, beside the model."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import disk_usage
from typing import Any

import torch
from transformers import PreTrainedModel

from layerprune.model.offload import devices
from layerprune.model.stack import decoder_stack, text_config
from layerprune.runtime import memory
from layerprune.runtime.progress import say

FREE_MEMORY_SHARE = 0.5
"""Share of free memory that is used by default: others may need some, and it is an estimate."""

MAX_TOKENS = {"cpu": 1024, "cuda": 16384}
"""More tokens at once bring no speed: on a CPU a layer's working set should fit into its caches."""

MAX_LOGITS = {"cpu": 2**24, "cuda": 2**27}
"""Some hundred positions, and thousands: with fewer, the head's weights are read more often than
they are used."""

MAX_SEQUENCES = {"cpu": 8, "cuda": 64}
"""Sequences that are generated together: more bring no speed."""

MIN_TOKENS = 16

MAX_TREE_TOKENS = 256
"""Tokens of a tree: each attends to all others, so larger trees cost more attention."""


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
    fits: int = sys.maxsize
    """Tokens that would fit into the memory for those that run together; `tokens` may be fewer."""
    prefix_token: float = 0.0
    """Memory of a prefix's token beside each sequence that continues it, in tokens that run."""
    cached_token: float = 0.0
    """Memory of a token in the cache of all layers, in tokens that run."""
    max_sequences: int = MAX_SEQUENCES["cpu"]
    """Sequences that are generated together at most."""

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
        heads = int(getattr(config, "num_attention_heads", None) or 1)
        head = int(getattr(config, "head_dim", None) or hidden // heads)
        key = head * int(getattr(config, "num_key_value_heads", None) or heads)
        size = model.dtype.itemsize
        # A layer's input, residual, norm, queries, keys, values, attention and output; between the
        # feed-forward projections four times their width, which leaves some for a mask.
        token_bytes = (10 * hidden + 4 * width) * size
        # Beside each sequence keys and values of its prefix, repeated for all heads, and a mask.
        prefix_bytes = 2 * (key + (head * heads if head * heads > key else 0)) * size
        prefix_bytes += MAX_TREE_TOKENS * (size + 2)
        cached_bytes = 2 * key * size * len(decoder_stack(model).layers)
        # Logits, their log-softmax, and a copy in float32.
        logit_bytes = 2 * size + 4
        buffer = budget // 2 if spill is None else int(disk_usage(spill).free * FREE_MEMORY_SHARE)
        kind = "cpu" if places[0].type == "cpu" else "cuda"
        fits = max(MIN_TOKENS, budget // 4 // token_bytes)
        return cls(
            tokens=min(MAX_TOKENS[kind], fits),
            buffered_tokens=max(MIN_TOKENS, buffer // (hidden * size)),
            logits=min(MAX_LOGITS[kind], max(1, budget // 4 // logit_bytes)),
            spill=spill,
            fits=fits,
            prefix_token=prefix_bytes / token_bytes,
            cached_token=cached_bytes / token_bytes,
            max_sequences=MAX_SEQUENCES[kind],
        )

    def rows(self, width: int, prefix: int = 0) -> int:
        """Return how many sequences of `width` tokens run together, at least one.

        They continue a common prefix of so many tokens, which lie in the cache of all layers.
        """
        left = self.fits - prefix * self.cached_token
        fit = left / (width + prefix * self.prefix_token)
        return max(1, min(self.tokens // width, int(fit)))

    def sequences(self, length: int) -> int:
        """Return how many sequences of `length` tokens are generated together, at least one."""
        if not self.cached_token:
            return self.max_sequences
        # Nothing else is held meanwhile: `fits` is a quarter of the budget.
        return max(1, min(self.max_sequences, int(4 * self.fits / (length * self.cached_token))))


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
        fits=max(MIN_TOKENS, min(memory_budget.fits, 2 * memory_budget.tokens) // 2),
        buffered_tokens=memory_budget.buffered_tokens // 2,
        logits=memory_budget.logits // 2,
    )
    say(f"Out of memory: going on with {half.tokens} tokens at a time.")
    return half
