"""Configurations as they are composed, without composing them."""

from layerprune.config.schema import (
    Config,
    DataConfig,
    EvalConfig,
    ExportConfig,
    HealConfig,
    MetricConfig,
    ModelConfig,
    PruneConfig,
    RuntimeConfig,
    Tokens,
    TrackerConfig,
)


def config(**changes):
    """A small job, with changes."""
    return Config(
        **{
            "model": ModelConfig(path="m"),
            "metric": MetricConfig(name="angular", tokens=Tokens.last),
            "prune": PruneConfig(strategy="block"),
            "heal": HealConfig(recipe="none"),
            "eval": EvalConfig(tasks=["facts"]),
            "data": DataConfig(),
            "tracker": TrackerConfig(),
            "export": ExportConfig(format="none"),
            "runtime": RuntimeConfig(),
            **changes,
        }
    )
