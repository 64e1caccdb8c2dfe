"""The speed of a point beside its dense model's, measured in the same rounds."""

from dataclasses import dataclass

from layerprune.record.validation import Count, Positive


@dataclass(frozen=True)
class MedianRange:
    """A number that was measured several times."""

    median: Positive
    """Median over rounds."""
    low: Positive
    """Minimum over rounds."""
    high: Positive
    """Maximum over rounds."""


@dataclass(frozen=True)
class ModelSpeed:
    """Speed, memory and operations of one model."""

    prefill: MedianRange
    """Prompt tokens per second."""
    decode: MedianRange
    """Generated tokens per second, after the first of each sequence."""
    first_token_s: MedianRange
    """Seconds from a prompt to its first token."""
    weight_bytes: Count
    """Bytes of parameters and buffers, shared ones counted once."""
    peak_bytes: Count
    """Peak memory of the model alone, in bytes: its weights and what was allocated on top."""
    flops_per_token: Positive
    """FLOPs per prompt token, counted by operation, with logits at the last token only."""
    flops_per_new_token: Positive
    """FLOPs per token generated after the prompt, including its logits."""


@dataclass(frozen=True)
class Speed:
    """A pruned model beside the dense one, measured in turns in the same rounds."""

    dense: ModelSpeed
    """The dense model."""
    pruned: ModelSpeed
    """The cut model."""
    prefill_ratio: MedianRange
    """Prefill speed relative to the dense model in the same round."""
    decode_ratio: MedianRange
    """Decoding speed relative to the dense model in the same round."""
    rounds: Count
    """Measured rounds."""
    batch_size: Count
    """Prompts in a batch."""
    prompt_tokens: Count
    """Tokens of each prompt."""
    new_tokens: Count
    """Tokens generated after each prompt."""

    @property
    def prefill_by_flops(self) -> float:
        """Times as fast as the dense model, if operations alone took time."""
        return self.dense.flops_per_token / self.pruned.flops_per_token

    @property
    def decode_by_flops(self) -> float:
        """Times as fast as the dense model in decoding, if operations alone took time."""
        return self.dense.flops_per_new_token / self.pruned.flops_per_new_token

    @property
    def conditions(self) -> str:
        """The conditions of the measurement, in words."""
        prompts = (
            "one prompt" if self.batch_size == 1 else f"{self.batch_size} prompts at once, each"
        )
        rounds = "one round" if self.rounds == 1 else f"medians of {self.rounds} rounds"
        generated = f"{self.new_tokens} written after it"
        return f"{prompts} of {self.prompt_tokens} tokens, {generated}, {rounds}"
