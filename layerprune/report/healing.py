"""What was done to a point after its cut, read and checked."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from layerprune.report.checks import count, number, text


class Step(NamedTuple):
    """What was seen at one optimiser step; step 0 is before training."""

    step: int
    loss: float | None
    """On the step's own text, in nats; None where nothing was trained."""
    heldout: float | None
    """On held-out text, in nats; None where it was not measured."""
    seconds: float | None
    """Of the step itself; None where nothing was trained."""


@dataclass(frozen=True)
class Healing:
    """How a point was healed, and what it cost."""

    recipe: str
    tokens: int
    seconds: float
    """Of healing alone, without measuring."""
    prepare_seconds: float
    """Before it: what a recipe computes once, and loading."""
    trainable_parameters: int
    peak_memory_bytes: int | None
    """The most that the process, or its GPU, held meanwhile; None where nothing was done."""
    before: float
    """The loss on held-out text, in nats: of the model as it was cut."""
    after: float
    steps: tuple[Step, ...]
    details: dict[str, str]
    """What a recipe says of itself."""

    @cached_property
    def trained(self) -> tuple[Step, ...]:
        """The steps that trained something; none for a recipe that only computes."""
        return tuple(step for step in self.steps if step.loss is not None)

    @property
    def seconds_per_token(self) -> float | None:
        """Median over steps, since single ones may have been disturbed; None without steps."""
        seconds = [each.seconds for each in self.trained if each.seconds is not None]
        if not seconds or not self.tokens:
            return None
        return median(seconds) * self.steps[-1].step / self.tokens

    @property
    def measured(self) -> tuple[tuple[int, float], ...]:
        """The steps at which the held-out loss was taken, and the losses."""
        return tuple((each.step, each.heldout) for each in self.steps if each.heldout is not None)


def read_healing(content: Any) -> Healing | None:
    """The healing in a record; None if there was none. Raises as `checks` do."""
    if content is None:
        return None
    steps = tuple(
        Step(count(step["step"]), *(_maybe(step[name]) for name in ("loss", "heldout", "seconds")))
        for step in content["steps"]
    )
    if any(first.step >= second.step for first, second in pairwise(steps)):
        raise ValueError("its steps of healing do not rise")
    peak = content["peak_memory_bytes"]
    return Healing(
        recipe=text(content["recipe"]),
        tokens=count(content["tokens"]),
        seconds=number(content["seconds"]),
        prepare_seconds=number(content.get("prepare_seconds", 0.0)),
        trainable_parameters=count(content["trainable_parameters"]),
        peak_memory_bytes=None if peak is None else count(peak),
        before=number(content["heldout_before"]),
        after=number(content["heldout_after"]),
        steps=steps,
        details={text(name): _said(value) for name, value in content["details"].items()},
    )


def _maybe(value: Any) -> float | None:
    return None if value is None else number(value)


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{number(value):.4g}"
    return str(value)
