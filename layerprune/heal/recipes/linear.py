"""A least-squares map in place of the dropped block, without training."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from layerprune.config.registry import recipe
from layerprune.config.schema import TextOptions
from layerprune.heal.setup import HealContext

if TYPE_CHECKING:  # reading records takes pydantic
    from layerprune.record.healing import Healing


@recipe("linear", reference="after ReplaceMe, arXiv 2505.02819")
class Linear(TextOptions):
    """The dropped block's least-squares map, folded into the projection before it."""

    reads_dense = True

    sequence_length: int = 128
    sequences: int = 160
    """Sequences that the map is fitted to."""

    @property
    def max_sequences(self) -> int:
        """The number of different sequences that the recipe can use."""
        return self.sequences

    def solve(self, context: HealContext, heldout: Callable[[], float]) -> "Healing":
        """Prune the model and fold the map into it; `heldout` measures its held-out loss."""
        from layerprune.heal.linear_map import fit, fold
        from layerprune.record.healing import Healing, TrainingStep
        from layerprune.runtime import memory

        model, plan = context.model, context.plan
        model.requires_grad_(False)
        if not plan.dropped:  # the dense model has no seam
            before = heldout()
            step = TrainingStep(0, heldout=before)
            return Healing(self.recipe, (step,), 0, 0.0, 0, before, before)
        started = time.monotonic()
        memory.reset_peak(model.device)
        linear_map = fit(model, plan, context.ids_ST)
        peak = memory.peak(model.device)
        context.prune()
        seconds = time.monotonic() - started
        before = heldout()
        fold(model, plan, linear_map)
        after = heldout()
        return Healing(
            recipe=self.recipe,
            steps=(TrainingStep(0, heldout=before), TrainingStep(1, heldout=after)),
            tokens=linear_map.tokens,
            seconds=round(seconds, 3),
            trainable_parameters=0,
            heldout_before=before,
            heldout_after=after,
            peak_memory_bytes=peak,
            details={"ridge": linear_map.ridge, "explained": linear_map.explained},
        )
