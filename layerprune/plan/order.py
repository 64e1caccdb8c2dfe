"""The layers of a model one after another, as they go: kept by what the order depends on.

Letters: L layers.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from layerprune.files import read_sealed, write_sealed
from layerprune.locks import alone


@dataclass
class Order:
    """Layers in the order in which they go: the first n of it are the plan for n."""

    key: str
    depends_on: dict[str, Any]
    layers: list[int] = field(default_factory=list)
    """Original indices."""
    costs: list[float] = field(default_factory=list)
    """What each cost when it went, by the metric, of the model that was left."""
    layer_runs: list[float] = field(default_factory=list)
    """Layer executions up to and with each, in units of one layer over all sequences."""
    bounds: list[float] = field(default_factory=list)
    """By original layer, what it is thought to cost at least; empty where every cost is measured
    again after each layer. With this a search goes on as if it had never stopped."""
    losses: list[float] = field(default_factory=list)
    """Of the model that is left, in nats, by sequence; likewise."""

    def add(self, layer: int, cost: float, runs: float) -> None:
        """A layer goes; `runs` are the layer executions since the one before went."""
        self.layers.append(layer)
        self.costs.append(cost)
        self.layer_runs.append((self.layer_runs[-1] if self.layer_runs else 0.0) + runs)


Extend = Callable[[Order, int], None]
"""Adds layers to an order until it has so many."""


def stored_order(
    folder: Path, key: str, depends_on: dict[str, Any], count: int, extend: Extend
) -> Order:
    """The order of that key in `folder`, of `count` layers at least; what is missing is added.

    Orders are nested: one serves every number of layers.
    """
    path = folder / f"order-{key}.json"
    order = _read(path, key)
    if order is not None and len(order.layers) >= count:
        return order
    with alone(path):
        # Another process may have added some meanwhile.
        order = _read(path, key) or Order(key, depends_on)
        if len(order.layers) < count:
            extend(order, count)
            write_sealed(path, asdict(order))
    return order


def _read(path: Path, key: str) -> Order | None:
    try:
        order = Order(**read_sealed(path))
    except (OSError, ValueError, TypeError):
        return None  # not there, or damaged: it is made again
    sizes = {len(order.layers), len(order.costs), len(order.layer_runs)}
    return order if order.key == key and len(sizes) == 1 else None
