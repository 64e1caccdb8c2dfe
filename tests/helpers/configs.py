"""Configurations as they are composed, without composing them."""

from layerprune.config.registry import METRICS
from layerprune.config.schema import (
    Config,
    DataConfig,
    EvalConfig,
    ExportConfig,
    ModelConfig,
    RuntimeConfig,
    Tokens,
    TrackerConfig,
)
from layerprune.heal.recipes.none import NoHealing
from layerprune.prune.metrics import MetricContext, TokenMetric
from layerprune.prune.metrics.angular import Angular
from layerprune.prune.strategies.block import Block
from layerprune.shared_forward.memory_budget import MemoryBudget


def config(**changes):
    """A small job, with changes."""
    return Config(
        **{
            "model": ModelConfig(path="m"),
            "metric": Angular(tokens=Tokens.last),
            "prune": Block(),
            "heal": NoHealing(),
            "eval": EvalConfig(tasks=["facts"]),
            "data": DataConfig(),
            "tracker": TrackerConfig(),
            "export": ExportConfig(format="none"),
            "runtime": RuntimeConfig(),
            **changes,
        }
    )


def context(model, ids_NT, seed=0, memory_budget=None):
    """What metrics measure, with the default memory budget."""
    return MetricContext(model, ids_NT, seed, memory_budget or MemoryBudget.of(model))


def make_metric(name, tokens=Tokens.all):
    """A metric by its name; `tokens` for those that read single tokens."""
    options = METRICS[name]
    return options(tokens=tokens) if issubclass(options, TokenMetric) else options()
