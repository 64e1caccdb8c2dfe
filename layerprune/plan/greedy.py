"""Layers that went one at a time, each time the one that cost least of what was left."""

import math

from layerprune.plan.order import Order
from layerprune.plan.plan import Choice


def greedy(order: Order, count: int) -> Choice:
    """The first `count` layers of an order; the score is the sum of what each cost when it went.

    Source: SLEB (Song et al., arXiv 2402.09025, algorithm 1), with `metric=perplexity`.
    """
    layers = order.layers[:count]
    reason = (
        f"{', '.join(map(str, layers))}: one at a time, each the least of what was left; "
        f"{order.layer_runs[count - 1]:.1f} layer runs over the calibration text"
    )
    return Choice(tuple(sorted(layers)), math.fsum(order.costs[:count]), reason)
