"""The healing of a point: the training of its remaining layers, and its cost."""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from statistics import median

from layerprune.record.validation import Count, Number

HEALED_TOGETHER, FEWEST_LAYERS = "cuts healed together", "fewest layers of these cuts"
OWN_TOKENS = "tokens of this cut"
"""Names in `Healing.details` of a training that healed several cuts."""


@dataclass(frozen=True)
class TrainingStep:
    """Losses and cost of one optimizer step; step 0 is before training."""

    step: Count
    """Number of the step; 0 is before training."""
    loss: Number | None = None
    """Mean training loss of the step, in nats per token; None where nothing was trained."""
    learning_rate: Number | None = None
    """Learning rate of the step."""
    heldout: Number | None = None
    """Held-out loss after this step in nats; None where it wasn't measured."""
    seconds: Number | None = None
    """Seconds of the step, without measurements and checkpoints."""
    peak_memory_bytes: Count | None = None
    """Peak memory of training so far: of the GPU if there is one, or of the process."""


@dataclass(frozen=True)
class Healing:
    """The healing of one point."""

    recipe: str
    """Name of the recipe."""
    steps: tuple[TrainingStep, ...]
    """Losses and cost of the optimiser steps, from step 0; losses are means over cuts that are
    healed together."""
    tokens: Count
    """Tokens trained on; repeated text counts each time."""
    seconds: Number
    """Seconds of training, without held-out measurements."""
    trainable_parameters: Count
    """Number of parameters that were trained."""
    heldout_before: Number
    """Held-out loss in nats right after the cut."""
    heldout_after: Number
    """The last held-out loss."""
    prepare_seconds: Number = 0.0
    """Seconds before the first step, for what a recipe computes once."""
    peak_memory_bytes: Count | None = None
    """Peak memory of the GPU, or of the process; None where nothing was trained."""
    stopped: str | None = None
    """Why training ended before `heal.steps`, if it did."""
    details: dict[str, Number] = field(default_factory=dict)
    """Numbers specific to the recipe."""

    @property
    def together(self) -> range | None:
        """The numbers of removed layers that the training healed; None if it was for one point."""
        if HEALED_TOGETHER not in self.details:
            return None
        first = int(self.details[FEWEST_LAYERS])
        return range(first, first + int(self.details[HEALED_TOGETHER]))

    @property
    def share(self) -> float:
        """The point's share of the training: 1 unless others were healed by it, too."""
        return 1 if self.together is None else 1 / len(self.together)

    def __post_init__(self) -> None:
        if any(first.step >= second.step for first, second in pairwise(self.steps)):
            raise ValueError("the steps of healing do not rise")

    @cached_property
    def trained_steps(self) -> tuple[TrainingStep, ...]:
        """The steps with a training loss; none for a recipe that only solves equations."""
        return tuple(step for step in self.steps if step.loss is not None)

    @property
    def seconds_per_token(self) -> float | None:
        """Median over steps, since single ones may have been disturbed; None without steps."""
        seconds = [step.seconds for step in self.trained_steps if step.seconds is not None]
        if not seconds or not self.tokens:
            return None
        return median(seconds) * self.steps[-1].step / self.tokens

    @property
    def heldout_losses(self) -> tuple[tuple[int, float], ...]:
        """Step and held-out loss in nats, wherever it was measured."""
        return tuple((step.step, step.heldout) for step in self.steps if step.heldout is not None)
