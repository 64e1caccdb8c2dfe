"""How fast a point was, as its record says it: beside the whole model, in the same rounds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A number that was measured several times."""

    median: float
    low: float
    high: float
    """The least and the greatest."""


@dataclass(frozen=True)
class Measured:
    """What one model takes."""

    prefill: Spread
    """Tokens of prompts read per second."""
    decode: Spread
    """Tokens written per second, after the first of each sequence."""
    first_token_s: Spread
    """Seconds from a prompt to its first token."""
    weight_bytes: int
    """Of parameters and buffers, shared ones once."""
    peak_bytes: int
    """The most that the model alone would have taken: its weights, and what came above them."""
    flops_per_token: float
    """Of a prompt that is read, counted operation by operation: logits at its last token alone."""
    flops_per_new_token: float | None = None
    """Of a token that is written after the prompt, its logits among them; None in records from
    before it was counted."""


@dataclass(frozen=True)
class Speed:
    """A cut model beside the whole one, measured in turns in the same rounds."""

    dense: Measured
    pruned: Measured
    prefill_ratio: Spread
    """Times as fast as the whole model in the same round."""
    decode_ratio: Spread
    rounds: int
    batch_size: int
    prompt_tokens: int
    new_tokens: int

    @property
    def prefill_counted(self) -> float:
        """Times as fast as the whole model, if operations alone took time."""
        return self.dense.flops_per_token / self.pruned.flops_per_token

    @property
    def decode_counted(self) -> float | None:
        """Likewise; None where they were not counted."""
        dense, pruned = self.dense.flops_per_new_token, self.pruned.flops_per_new_token
        return None if dense is None or pruned is None else dense / pruned

    @property
    def conditions(self) -> str:
        """How it was measured, in words."""
        prompts = (
            "one prompt" if self.batch_size == 1 else f"{self.batch_size} prompts at once, each"
        )
        rounds = "one round" if self.rounds == 1 else f"medians of {self.rounds} rounds"
        written = f"{self.new_tokens} written after it"
        return f"{prompts} of {self.prompt_tokens} tokens, {written}, {rounds}"
