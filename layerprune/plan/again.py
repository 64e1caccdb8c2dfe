"""Layers go one at a time, and the metric is measured again on the model that is left.

Letters: N sequences, T time, L layers.
"""

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from layerprune.config.schema import MetricConfig
from layerprune.model.counting import counting
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import dropped
from layerprune.paths.room import Room
from layerprune.plan.order import Order
from layerprune.plan.scattered import cheapest_first
from layerprune.progress import bar
from layerprune.similarity.measure import measure


def extend_by_measuring(
    model: PreTrainedModel,
    metric: MetricConfig,
    ids_NT: Tensor,
    seed: int,
    order: Order,
    count: int,
    room: Room | None = None,
) -> None:
    """Add layers to `order` until it has `count`: each time the least distance across one layer.

    Of equal ones the deepest. A step is one measurement of all layers that are left, which for
    metrics of hidden states is one pass.
    """
    every = range(len(decoder_stack(model).layers))
    with bar("layers to go", total=count - len(order.layers)) as advance:
        while len(order.layers) < count:
            left = [layer for layer in every if layer not in order.layers]
            with counting(model) as runs, dropped(model, order.layers):
                distance_L = np.diagonal(measure(model, metric, ids_NT, seed, room), offset=1)
            slot = cheapest_first(distance_L)[0]
            order.add(left[slot], float(distance_L[slot]), runs() / len(ids_NT))
            advance(1)
