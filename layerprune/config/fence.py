"""What a YAML file may ask of Hydra: values and choices, and no code but that of its plugins.

Hydra builds loggers, callbacks, sweepers and launchers from names of Python's callables, and sets
the environment. A configuration from elsewhere (`--config-dir`, `hydra.searchpath`) could so run
anything; Hydra's own list of forbidden callables (GHSA-37p2-j732-x8pj) is no boundary. Here, names
that are built must be known. `docs/security.md` says what is left.
"""

from collections.abc import Iterator
from functools import wraps
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from layerprune.errors import UserError

PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.")
"""What a launcher or a sweeper is called. Someone has installed these packages."""

BUILT = {"hydra.launcher._target_", "hydra.sweeper._target_"}

LOGGING = {
    "class": {"logging.StreamHandler", "logging.FileHandler", "logging.NullHandler"},
    "()": {"layerprune.progress.OneLine", "layerprune.redact.Redacted"},
    "stream": {"ext://sys.stdout", "ext://sys.stderr"},
    "filename": {"${hydra.runtime.output_dir}/${hydra.job.name}.log"},
    "mode": {"a", "w"},
}
"""What loggers are built from. Another file could be any, with lines that `format` chooses."""

LOGGING_WORDS = {"level", "format", "fmt", "datefmt", "formatter", "handlers"}
"""Whose text is text: levels, patterns, and the names of other entries."""

ENVIRONMENT = {
    "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES",
    "HF_HUB_OFFLINE",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "TOKENIZERS_PARALLELISM",
    "WANDB_MODE",
}
"""What `hydra.job.env_set` may set. Others name libraries to load, or hosts that get keys."""

INSTEAD = "It is not taken from a configuration, since it can run code of its author's choice."

_load_configuration = ConfigLoaderImpl.load_configuration


def put_up() -> None:
    """Let every configuration that Hydra composes in this process pass here first."""
    ConfigLoaderImpl.load_configuration = _checked  # type: ignore[method-assign]


@wraps(_load_configuration)
def _checked(*args: Any, **kwargs: Any) -> DictConfig:
    composed = _load_configuration(*args, **kwargs)
    check(composed)
    return composed


def check(composed: DictConfig) -> None:
    """Raise `UserError` naming the first key by which a composed configuration would run code."""
    raw = OmegaConf.to_container(composed, resolve=False)
    for key, _ in entries("", raw):
        if key.endswith("_target_") and key not in BUILT:
            raise UserError(f"{key}: {INSTEAD}")
    hydra = _node({"hydra": {}} | raw, "hydra")  # type: ignore[operator] # a dict, as composed is
    if _node(hydra, "hydra.callbacks"):
        raise UserError(f"hydra.callbacks: {INSTEAD}")
    for name in _node(_node(hydra, "hydra.job"), "hydra.job.env_set"):
        if name not in ENVIRONMENT:
            raise UserError(
                f"hydra.job.env_set.{name}: {INSTEAD} Set it in the shell. "
                f"Known here: {', '.join(sorted(ENVIRONMENT))}."
            )
    for key in ("hydra.hydra_logging", "hydra.job_logging"):
        for inner, value in entries(key, _node(hydra, key)):
            _check_logging(inner, value)
    for key in ("hydra.launcher", "hydra.sweeper"):
        _check_plugin(composed, key, _node(hydra, key))


def _node(parent: dict[Any, Any], key: str) -> dict[Any, Any]:
    """What is there by the last part of a key, as it stands: not what `${...}` might become."""
    node = parent.get(key.rpartition(".")[2])
    if node is None:
        return {}
    if not isinstance(node, dict):
        raise UserError(f"{key}={node}: {INSTEAD}")
    return node


def _check_logging(key: str, value: Any) -> None:
    """Loggers are made of known parts; names and patterns in them are free, as they stand."""
    (last, *_) = (part for part in reversed(key.split(".")) if not part.isdigit())
    if last in LOGGING:
        known = value in LOGGING[last]
    elif isinstance(value, str):
        known = last in LOGGING_WORDS and not any(mark in value for mark in ("${", "://"))
    else:
        known = value is None or isinstance(value, bool | int)
    if not known:
        raise UserError(f"{key}={value}: {INSTEAD}")


def _check_plugin(composed: DictConfig, key: str, raw: dict[Any, Any]) -> None:
    """A launcher or sweeper is a plugin, and nothing within it is built."""
    if not raw:
        return
    if not str(raw.get("_target_")).startswith(PLUGINS):
        raise UserError(f"{key}._target_={raw.get('_target_')}: {INSTEAD}")
    try:  # Hydra builds what stands behind `${...}` as well
        resolved = OmegaConf.to_container(OmegaConf.select(composed, key), resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{key}: {str(error).splitlines()[0]}") from error
    for inner, _ in entries(key, resolved):
        if inner.endswith("_target_") and inner not in BUILT:
            raise UserError(f"{inner}: {INSTEAD}")


def entries(key: str, raw: Any) -> Iterator[tuple[str, Any]]:
    """Each value below a key that is no container, with its own key."""
    if isinstance(raw, dict | list):
        for name, value in raw.items() if isinstance(raw, dict) else enumerate(raw):
            yield from entries(f"{key}.{name}" if key else str(name), value)
    else:
        yield key, raw
