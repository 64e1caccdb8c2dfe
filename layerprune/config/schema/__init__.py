"""The typed configuration under every YAML file of `conf/`, one file a group.

Types and defaults live here and nowhere else; the YAML files hold choices. Hydra checks keys and
types while it composes; `__post_init__` checks values, and each message names the key. The line
under a key says what it is, for `docs/configuration.md`, too.
"""

from layerprune.config.schema.data import Calibration, DataConfig
from layerprune.config.schema.eval import EvalConfig, SpeedConfig
from layerprune.config.schema.export import ExportConfig
from layerprune.config.schema.fit import FitConfig
from layerprune.config.schema.heal import HEAL_KEYS, HealConfig, held_after
from layerprune.config.schema.job import Config
from layerprune.config.schema.metric import METRIC_KEYS, MetricConfig, Tokens
from layerprune.config.schema.model import (
    Dtype,
    HealingFacts,
    ModelConfig,
    Quantization,
    ShapeFacts,
)
from layerprune.config.schema.prune import DEFAULT_FRACTIONS, PruneConfig
from layerprune.config.schema.runtime import SAME_MEMORY, DeviceMap, RuntimeConfig
from layerprune.config.schema.tracker import TrackerConfig, TrackerMode

__all__ = [
    "DEFAULT_FRACTIONS",
    "HEAL_KEYS",
    "METRIC_KEYS",
    "SAME_MEMORY",
    "Calibration",
    "Config",
    "DataConfig",
    "DeviceMap",
    "Dtype",
    "EvalConfig",
    "ExportConfig",
    "FitConfig",
    "HealConfig",
    "HealingFacts",
    "MetricConfig",
    "ModelConfig",
    "PruneConfig",
    "Quantization",
    "RuntimeConfig",
    "ShapeFacts",
    "SpeedConfig",
    "Tokens",
    "TrackerConfig",
    "TrackerMode",
    "held_after",
]
