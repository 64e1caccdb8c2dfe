"""How fast a point was, read and checked: tokens per second beside those of the whole model."""

from dataclasses import dataclass
from typing import Any

from layerprune.report.checks import count, number


@dataclass(frozen=True)
class Spread:
    """A number that was measured in several rounds."""

    median: float
    low: float
    high: float
    """The least and the greatest."""


@dataclass(frozen=True)
class Timed:
    """What one model takes."""

    prefill: Spread
    """Tokens of prompts read per second."""
    decode: Spread
    """Tokens written per second."""
    first_token_s: Spread
    weight_bytes: int
    peak_bytes: int
    """Weights, and what came above them."""
    flops_per_token: float
    """Of a prompt that is read; counted."""


@dataclass(frozen=True)
class Timing:
    """A point beside its dense model, in the same rounds."""

    dense: Timed
    pruned: Timed
    prefill_ratio: Spread
    """Times as fast as the dense model."""
    decode_ratio: Spread
    batch_size: int
    prompt_tokens: int
    new_tokens: int
    rounds: int

    @property
    def counted_ratio(self) -> float:
        """Times as fast as the dense model, if operations alone took time."""
        return self.dense.flops_per_token / self.pruned.flops_per_token

    @property
    def conditions(self) -> str:
        """How it was measured, in words."""
        prompts = (
            "one prompt" if self.batch_size == 1 else f"{self.batch_size} prompts at once, each"
        )
        rounds = "one round" if self.rounds == 1 else f"medians of {self.rounds} rounds"
        written = f"{self.new_tokens} written after it"
        return f"{prompts} of {self.prompt_tokens} tokens, {written}, {rounds}"


def read_timing(content: Any) -> Timing | None:
    """The speed in a record; None if it was not measured. Raises as `checks` do."""
    if content is None:
        return None
    return Timing(
        dense=_timed(content["dense"]),
        pruned=_timed(content["pruned"]),
        prefill_ratio=_spread(content["prefill_ratio"]),
        decode_ratio=_spread(content["decode_ratio"]),
        batch_size=count(content["batch_size"]),
        prompt_tokens=count(content["prompt_tokens"]),
        new_tokens=count(content["new_tokens"]),
        rounds=count(content["rounds"]),
    )


def _timed(content: Any) -> Timed:
    return Timed(
        prefill=_spread(content["prefill"]),
        decode=_spread(content["decode"]),
        first_token_s=_spread(content["first_token_s"]),
        weight_bytes=count(content["weight_bytes"]),
        peak_bytes=count(content["peak_bytes"]),
        flops_per_token=_positive(content["flops_per_token"]),
    )


def _spread(content: Any) -> Spread:
    return Spread(*(_positive(content[name]) for name in ("median", "low", "high")))


def _positive(value: Any) -> float:
    if number(value) <= 0:
        raise ValueError(f"{value!r} is not above 0")
    return float(value)
