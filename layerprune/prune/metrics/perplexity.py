"""Rise of the loss without a layer."""

import math

from layerprune.config.registry import metric
from layerprune.prune.metrics import LayerMetric, MetricContext


@metric("perplexity", reference="SLEB, Song et al., arXiv 2402.09025")
class Perplexity(LayerMetric):
    """Loss without the layer minus the dense model's, in nats per token.

    Negative if the text is predicted better without it. It is the logarithm of the ratio of two
    perplexities and ranks layers as these do.
    """

    def importance(self, context: MetricContext) -> list[float]:
        """Run all models without one layer in one shared pass."""
        from layerprune.model.stack import decoder_stack
        from layerprune.shared_forward.losses import sequence_losses

        full = tuple(range(len(decoder_stack(context.model).layers)))
        without = [(*full[:layer], *full[layer + 1 :]) for layer in full]
        title, budget = "loss without each layer", context.memory_budget
        dense, *cut = sequence_losses(
            context.model, context.ids_NT, [full, *without], title, budget
        )
        return [(math.fsum(loss_N) - math.fsum(dense)) / len(dense) for loss_N in cut]
