"""Registries of metrics, strategies and recipes: one class in one file for each choice.

    @metric("angular", reference="Gromov et al., arXiv 2403.17887, section 3.2")
    class Angular(TokenMetric):
        \"\"\"Angle between two states, in units of pi.\"\"\"

The class becomes a dataclass: its fields are the options of `metric=angular`, its methods do the
work, and `config.metric` is an instance. A registry imports every module of its folder to list its
choices. These modules import torch and transformers inside functions only: `--help` reads them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import get_annotations
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar, cast

from layerprune.config.schema import HealOptions, MetricOptions, PruneOptions, Quantization
from layerprune.errors import UserError

Options = TypeVar("Options")
Class = TypeVar("Class", bound=type[Any])


class Registry(Generic[Options]):
    """The classes that one configuration group chooses from, by name."""

    def __init__(self, group: str, key: str, package: str) -> None:
        self.group = group
        """Group of `conf/`, and field of `Config`."""
        self.key = key
        """Option that holds the name, as `strategy` in `prune.strategy`."""
        self.references: dict[str, str] = {}
        """Paper and section of each choice."""
        self._package = package
        self._classes: dict[str, type[Options]] = {}

    def add(self, name: str, reference: str) -> Callable[[Class], Class]:
        """Return a decorator that makes a class a dataclass and registers it as `name`."""

        def register(cls: Class) -> Class:
            cls.__annotations__ = {self.key: str, **get_annotations(cls)}
            setattr(cls, self.key, name)
            self._classes[name] = dataclass(kw_only=True, slots=True)(cls)
            self.references[name] = reference
            return cast(Class, self._classes[name])

        return register

    def choices(self) -> dict[str, type[Options]]:
        """Return every class by its name, in alphabetical order."""
        _import_modules(self._package)
        return dict(sorted(self._classes.items()))

    def __getitem__(self, name: str) -> type[Options]:
        """Return the class of that name; raises `UserError` that lists the others."""
        if name in (choices := self.choices()):
            return choices[name]
        names = ", ".join(choices)
        raise UserError(f"{self.group}.{self.key}={name} is not known: choose one of {names}.")


@cache
def _import_modules(package: str) -> None:
    for module in iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")


METRICS: Registry[MetricOptions] = Registry("metric", "name", "layerprune.prune.metrics")
STRATEGIES: Registry[PruneOptions] = Registry("prune", "strategy", "layerprune.prune.strategies")
RECIPES: Registry[HealOptions] = Registry("heal", "recipe", "layerprune.heal.recipes")
REGISTRIES: tuple[Registry[Any], ...] = (METRICS, STRATEGIES, RECIPES)


metric, strategy, recipe = METRICS.add, STRATEGIES.add, RECIPES.add


def quantization_after(recipe: str, before: Quantization | None) -> Quantization | None:
    """Return the quantization of a healed model of a record."""
    return RECIPES.choices().get(recipe, HealOptions).quantizes_to or before


def has_own_loss(recipe: str) -> bool:
    """Return True if the training losses of a recipe are no losses of the text alone."""
    return RECIPES.choices().get(recipe, HealOptions).own_loss
