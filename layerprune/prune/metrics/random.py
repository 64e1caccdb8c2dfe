"""Random importances, for comparison."""

from random import Random
from typing import ClassVar

from layerprune.config.registry import metric
from layerprune.prune.metrics import LayerMetric, MetricContext


@metric("random", reference="the baseline that a metric has to beat")
class RandomImportance(LayerMetric):
    """A number in [0, 1) drawn by `seed`, independent of text and weights."""

    uses_seed: ClassVar[bool] = True

    def importance(self, context: MetricContext) -> list[float]:
        """Draw one number per layer."""
        from layerprune.model.stack import decoder_stack

        generator = Random(context.seed)
        return [generator.random() for _ in decoder_stack(context.model).layers]
