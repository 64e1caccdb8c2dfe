"""How layers are compared."""

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from layerprune.errors import UserError


class Tokens(Enum):
    """Which tokens of a sequence a metric looks at."""

    last = "last"
    all = "all"


TOKEN_KEYS = ("tokens",)

METRIC_KEYS: dict[str, tuple[str, ...]] = {
    "angular": TOKEN_KEYS,
    "cosine": TOKEN_KEYS,
    "block_influence": TOKEN_KEYS,
    "magnitude": TOKEN_KEYS,
    "euclidean": TOKEN_KEYS,
    "cka": TOKEN_KEYS,
    "perplexity": (),
    "taylor": (),
    "random": (),
}
"""The keys that each metric reads."""


@dataclass(kw_only=True, slots=True)
class MetricConfig:
    """How far apart two layers' inputs are said to be, or how much layers matter."""

    name: str = MISSING
    """One of the metrics; `metric=NAME` sets it."""
    tokens: Tokens | None = None
    """`last`: each sequence counts by its last token, as in Gromov et al. `all`: by the mean over
    all its tokens but the first, which is an attention sink in many models: its norm is huge, and
    it would say nothing of what layers do to text."""

    def __post_init__(self) -> None:
        keys = METRIC_KEYS.get(self.name)
        if keys is None:
            raise UserError(
                f"metric.name={self.name} is not known: choose one of {', '.join(METRIC_KEYS)}."
            )
        if self.tokens is not None and "tokens" not in keys:
            raise UserError(f"metric.tokens means nothing to metric={self.name}: leave it out.")
        if self.tokens is None and "tokens" in keys:
            raise UserError("metric.tokens has no value: add metric.tokens=VALUE to the command.")
