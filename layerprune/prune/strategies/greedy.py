"""One layer at a time, the cheapest of those that remain."""

import math

from layerprune.config.registry import strategy
from layerprune.config.schema import MetricOptions
from layerprune.prune.metrics import MetricContext
from layerprune.prune.metrics.perplexity import Perplexity
from layerprune.prune.plan import Choice
from layerprune.prune.removal_order import RemovalOrder
from layerprune.prune.strategies import OrderStrategy
from layerprune.prune.strategies.scattered import cheapest_first


@strategy("greedy", reference="SLEB, Song et al., arXiv 2402.09025, algorithm 1")
class Greedy(OrderStrategy):
    """One layer at a time, each the cheapest by the metric measured on the remaining layers.

    With `metric=perplexity` it is SLEB's algorithm, made lazy: few costs are measured again.
    """

    def extend(
        self, order: RemovalOrder, count: int, metric: MetricOptions, context: MetricContext
    ) -> None:
        """Add the cheapest layers, lazily if the metric allows it."""
        from layerprune.prune.lazy_greedy import extend_lazily

        if isinstance(metric, Perplexity):
            extend_lazily(context.model, context.ids_NT, order, count, context.memory_budget)
        else:
            extend_by_measuring(order, count, metric, context)

    def choose(self, order: RemovalOrder, count: int) -> Choice:
        """Return the beginning of the order; the score is the sum of the costs."""
        layers = order.layers[:count]
        reason = (
            f"{', '.join(map(str, layers))}: one at a time, each the least of what was left; "
            f"{order.layer_runs[count - 1]:.1f} layer runs over the calibration text"
        )
        return Choice(tuple(sorted(layers)), math.fsum(order.costs[:count]), reason)


def extend_by_measuring(
    order: RemovalOrder, count: int, metric: MetricOptions, context: MetricContext
) -> None:
    """Add layers to `order` until it has `count`: each time the least distance across one layer.

    The deepest of equal ones. Each step measures all remaining layers, in one pass for metrics of
    hidden states.
    """
    from layerprune.model.stack import count_layer_runs, decoder_stack
    from layerprune.model.surgery import limited_to
    from layerprune.prune.layer_distances import measure_distances
    from layerprune.runtime.progress import progress_bar

    layers = range(len(decoder_stack(context.model).layers))
    with progress_bar("layers to remove", total=count - len(order.layers)) as advance:
        while len(order.layers) < count:
            remaining = [layer for layer in layers if layer not in order.layers]
            with count_layer_runs(context.model) as runs, limited_to(context.model, remaining):
                distance_L = measure_distances(metric, context).diagonal(1)
            slot = cheapest_first(distance_L)[0]
            order.add(remaining[slot], float(distance_L[slot]), runs() / len(context.ids_NT))
            advance(1)
