"""The speed in a record, read and checked."""

from typing import Any

from layerprune.record.speed import Measured, Speed, Spread
from layerprune.report.checks import count, number


def read_speed(content: Any) -> Speed | None:
    """The speed in a record; None if it was not measured. Raises as `checks` do."""
    if content is None:
        return None
    return Speed(
        dense=_measured(content["dense"]),
        pruned=_measured(content["pruned"]),
        prefill_ratio=_spread(content["prefill_ratio"]),
        decode_ratio=_spread(content["decode_ratio"]),
        batch_size=count(content["batch_size"]),
        prompt_tokens=count(content["prompt_tokens"]),
        new_tokens=count(content["new_tokens"]),
        rounds=count(content["rounds"]),
    )


def _measured(content: Any) -> Measured:
    new = content.get("flops_per_new_token")
    return Measured(
        prefill=_spread(content["prefill"]),
        decode=_spread(content["decode"]),
        first_token_s=_spread(content["first_token_s"]),
        weight_bytes=count(content["weight_bytes"]),
        peak_bytes=count(content["peak_bytes"]),
        flops_per_token=_positive(content["flops_per_token"]),
        flops_per_new_token=None if new is None else _positive(new),
    )


def _spread(content: Any) -> Spread:
    return Spread(*(_positive(content[name]) for name in ("median", "low", "high")))


def _positive(value: Any) -> float:
    if number(value) <= 0:
        raise ValueError(f"{value!r} is not above 0")
    return float(value)
