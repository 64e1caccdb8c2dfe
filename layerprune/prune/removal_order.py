"""The order in which layers are removed one at a time, cached by what it depends on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerprune.runtime.atomic_files import read_checksummed
from layerprune.runtime.cache import cached, read_intact


@dataclass
class RemovalOrder:
    """Layers in the order of their removal: the first n of it are the plan for n."""

    key: str
    depends_on: dict[str, Any]
    layers: list[int] = field(default_factory=list)
    """Original indices."""
    costs: list[float] = field(default_factory=list)
    """Cost of each by the metric, measured on the layers that remained before its removal."""
    layer_runs: list[float] = field(default_factory=list)
    """Layer executions until each was chosen, in units of one layer over all sequences."""
    bounds: list[float] = field(default_factory=list)
    """Lower bound of the cost, by original layer; empty if every cost is measured again after each
    removal. With these and `losses`, a search continues as if it had never stopped."""
    losses: list[float] = field(default_factory=list)
    """Loss of the remaining layers by sequence, in nats; empty likewise."""

    def add(self, layer: int, cost: float, runs: float) -> None:
        """Append a layer; `runs` are the layer executions since the one before."""
        self.layers.append(layer)
        self.costs.append(cost)
        self.layer_runs.append((self.layer_runs[-1] if self.layer_runs else 0.0) + runs)


def cached_removal_order(
    folder: Path,
    key: str,
    depends_on: dict[str, Any],
    count: int,
    extend: Callable[[RemovalOrder, int], None],
) -> RemovalOrder:
    """Return the order of that key from `folder`, with at least `count` layers.

    Orders are nested, so one serves every count: `extend(order, count)` adds the missing layers.
    """

    def read(path: Path, least: int = count) -> RemovalOrder | None:
        order = RemovalOrder(**read_checksummed(path))
        sizes = {len(order.layers), len(order.costs), len(order.layer_runs)}
        intact = order.key == key and len(sizes) == 1 and len(order.layers) >= least
        return order if intact else None

    def make() -> RemovalOrder:
        shorter = read_intact(path, lambda path: read(path, 0))
        order = shorter or RemovalOrder(key, depends_on)
        extend(order, count)
        return order

    path = folder / f"order-{key}.json"
    return cached(path, read, make)
