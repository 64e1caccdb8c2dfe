"""LoRA adapters that many numbers of removed layers share, from one training."""

from collections import Counter
from itertools import pairwise
from random import Random

from omegaconf import II

from layerprune.config.registry import recipe
from layerprune.config.schema import LoraOptions, TrainingLoad, zero_allowed
from layerprune.errors import UserError
from layerprune.heal.recipes.lora import add_adapters
from layerprune.heal.setup import Examples, HealContext, TrainingSetup


@recipe("elastic", reference="after LayerDrop (Fan et al., arXiv 1909.11556)")
class Elastic(LoraOptions):
    """LoRA adapters, trained once for many points of a curve.

    The numbers of removed layers from 0 to `max_fraction` are divided into `bands`. Each band has
    its own adapters. In training, every micro-batch is split over several cuts of the band, drawn
    for each step. Points beyond `max_fraction` get the adapters of the last band.
    """

    own_loss = True
    uses_micro_batches = True  # each goes through other cuts

    steps: int = II("product:4,${model.healing.steps}")
    """Optimiser steps of each band: four times as many as for one point."""
    warmup_steps: int = zero_allowed(II("warmup:${heal.steps},100"))
    """Steps over which the learning rate rises; fewer than `steps`."""
    max_fraction: float = 0.6
    """Largest fraction of layers to train for."""
    bands: int = 2
    """Parts of the range of removed layers, each with its own training."""
    cuts_per_batch: int = 2
    """Cuts that share each micro-batch, at most one per sequence."""

    def __post_init__(self) -> None:
        LoraOptions.__post_init__(self)
        if self.max_fraction >= 1:
            raise UserError(
                f"heal.max_fraction={self.max_fraction}: use a number above 0 and less than 1."
            )

    def trainings(self, num_layers: int) -> list[range]:
        """Return the numbers of removed layers in each band."""
        most = min(round(self.max_fraction * num_layers), num_layers - 1)
        bands = min(self.bands, most + 1)
        return [range(part.start, part.stop) for part in split(most + 1, bands)]

    def training_load(self, kept: int, dense: int, first: int) -> TrainingLoad:
        """Return the load of a cut of average depth; memory counts all layers."""
        mean = dense * (1 - self.max_fraction / 2)
        return TrainingLoad(layers=2 * mean, heads=2, saved_layers=dense)

    def draws(self, seed: int, step: int, num_cuts: int) -> list[list[int]]:
        """Return the cuts of each micro-batch of an optimiser step, as numbers below `num_cuts`.

        Stratified: the step's draws lie in equal parts of the range, one in each, in random order.
        """
        random = Random(f"{seed} {step}")
        micro_batch_size = min(self.micro_batch_size, self.batch_size)
        per_batch = min(self.cuts_per_batch, micro_batch_size)
        count = self.batch_size // micro_batch_size * per_batch
        cuts = [int(num_cuts * (index + random.random()) / count) for index in range(count)]
        random.shuffle(cuts)
        return [cuts[start : start + per_batch] for start in range(0, count, per_batch)]

    def sequences_per_cut(self, seed: int, steps: int, num_cuts: int) -> list[int]:
        """Return how many sequences each cut was trained on after so many steps."""
        counts = Counter[int]()
        size = min(self.micro_batch_size, self.batch_size)
        for step in range(steps):
            for cuts in self.draws(seed, step, num_cuts):
                for cut, rows in zip(cuts, split(size, len(cuts)), strict=True):
                    counts[cut] += rows.stop - rows.start
        return [counts[cut] for cut in range(num_cuts)]

    def prepare(self, context: HealContext) -> TrainingSetup:
        """Add adapters to the dense model, to be trained on the next token in every cut."""
        from layerprune.heal.losses import ElasticNextToken

        adapted = add_adapters(context.model, self)
        paths = [plan.kept for plan in context.cuts]
        objective = ElasticNextToken(context.model, paths, self, context.seed)
        return TrainingSetup(
            objective, Examples(context.ids_ST), adapted, before_step=objective.start_step
        )


def split(size: int, parts: int) -> list[slice]:
    """Return slices that divide `size` rows into `parts` of nearly equal size."""
    bounds = (size * part // parts for part in range(parts + 1))
    return [slice(start, stop) for start, stop in pairwise(bounds)]
