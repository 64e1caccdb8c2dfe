"""Strategies: the layers to remove, chosen before any tensor is touched.

One class per file, registered by `layerprune.config.registry.strategy`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from layerprune.config.schema import MetricOptions, PruneOptions
from layerprune.prune.distance_matrix import Matrix
from layerprune.prune.metrics import MetricContext
from layerprune.prune.plan import Choice, Plan, make_plan
from layerprune.prune.removal_order import RemovalOrder
from layerprune.prune.target import Target


@dataclass(kw_only=True, slots=True)
class DistanceStrategy(PruneOptions, ABC):
    """A strategy that chooses layers by the distances [L+1, L+1] between all layers' inputs."""

    @abstractmethod
    def choose(self, distances_SS: Matrix, count: int, seed: int) -> Choice:
        """Return `count` layers, at least 1."""

    def plan(self, target: Target, distances_SS: Matrix, seed: int) -> Plan:
        """Return the plan for a point, with the user's layers if they named them."""
        num_layers = len(distances_SS) - 1
        return make_plan(
            self.strategy, target, num_layers, lambda count: self.choose(distances_SS, count, seed)
        )


@dataclass(kw_only=True, slots=True)
class OrderStrategy(PruneOptions, ABC):
    """A strategy that removes layers one at a time: the first n of its order are the plan for n."""

    @abstractmethod
    def extend(
        self, order: RemovalOrder, count: int, metric: MetricOptions, context: MetricContext
    ) -> None:
        """Add layers to `order` until it has `count`, measuring `metric` on the way."""

    @abstractmethod
    def choose(self, order: RemovalOrder, count: int) -> Choice:
        """Return the first `count` layers of the order, at least 1."""

    def plan(self, target: Target, order: RemovalOrder, num_layers: int) -> Plan:
        """Return the plan for a point, likewise; the order must be long enough."""
        return make_plan(self.strategy, target, num_layers, lambda count: self.choose(order, count))
