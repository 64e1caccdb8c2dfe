"""Values of a record, each checked as it is read: every one raises what `read_entry` catches."""

import math
from typing import Any


def number(value: Any) -> float:
    """A finite number."""
    # JSON has these two types and no classes derived from them: this is asked a million times.
    if (type(value) is float or type(value) is int) and math.isfinite(value):
        return float(value)
    raise ValueError(f"{value!r} is not a finite number")


def count(value: Any) -> int:
    """A whole number that is not negative."""
    if type(value) is int and value >= 0:
        return value
    raise ValueError(f"{value!r} is not a count")


def text(value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value
