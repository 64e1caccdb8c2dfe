"""How the order is found in which layers go one at a time."""

from torch import Tensor
from transformers import PreTrainedModel

from layerprune.config.schema import MetricConfig
from layerprune.paths.room import Room
from layerprune.plan.again import extend_by_measuring
from layerprune.plan.lazy import extend_lazily
from layerprune.plan.order import Order


def extend(
    model: PreTrainedModel,
    metric: MetricConfig,
    ids_NT: Tensor,
    seed: int,
    order: Order,
    count: int,
    room: Room | None = None,
) -> None:
    """Add layers to `order` until it has `count`, each the least by `metric` of what is left.

    With `metric=perplexity` this is SLEB's algorithm, in a form that does not measure everything;
    with the others all is measured again after each layer, within `room`; it is for them alone.
    """
    if metric.name == "perplexity":
        extend_lazily(model, ids_NT, order, count)
    else:
        extend_by_measuring(model, metric, ids_NT, seed, order, count, room)
