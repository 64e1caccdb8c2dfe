"""Guard against YAML files that would run code: they may set values and choose, no more.

Hydra builds loggers, callbacks, sweepers and launchers from names of Python's callables, and sets
the environment, so a configuration from elsewhere (`--config-dir`, `hydra.searchpath`) could run
anything. Hydra's own list of forbidden callables (GHSA-37p2-j732-x8pj) is not sufficient. Here,
only known names are built. `docs/security.md` lists the remaining risks.
"""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from layerprune.errors import UserError

PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.")
"""Prefixes of launchers and sweepers, which are packages that the user installed."""

TARGETS = {"hydra.launcher._target_", "hydra.sweeper._target_"}

LOGGING = {
    "class": {"logging.StreamHandler", "logging.FileHandler", "logging.NullHandler"},
    "()": {"layerprune.runtime.progress.OneLine", "layerprune.runtime.redact.Redacted"},
    "stream": {"ext://sys.stdout", "ext://sys.stderr"},
    "filename": {"${hydra.runtime.output_dir}/${hydra.job.name}.log"},
    "mode": {"a", "w"},
}
"""Values that loggers are built from. A log file of another name could replace any file."""

LOGGING_TEXT = {"level", "format", "fmt", "datefmt", "formatter", "handlers"}
"""Keys whose values are plain text: levels, patterns, and the names of other entries."""

ENVIRONMENT = {
    "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "MKL_NUM_THREADS",
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTORCH_ALLOC_CONF", "TOKENIZERS_PARALLELISM",
    "WANDB_MODE",
}  # fmt: skip
"""Variables that `hydra.job.env_set` may set. Others load libraries or name hosts."""

REFUSAL = "a configuration must not set it, since it could run code of its author's choice."


def check(composed: DictConfig) -> None:
    """Raise `UserError` naming the first key by which a composed configuration would run code."""
    raw = OmegaConf.to_container(composed, resolve=False)
    for key, _ in entries("", raw):
        if key.endswith("_target_") and key not in TARGETS:
            raise UserError(f"{key}: {REFUSAL}")
    hydra = _node({"hydra": {}} | raw, "hydra")  # type: ignore[operator] # a dict, as composed is
    if _node(hydra, "hydra.callbacks"):
        raise UserError(f"hydra.callbacks: {REFUSAL}")
    for name in _node(_node(hydra, "hydra.job"), "hydra.job.env_set"):
        if name not in ENVIRONMENT:
            raise UserError(
                f"hydra.job.env_set.{name}: {REFUSAL} Set it in the shell. "
                f"Allowed here: {', '.join(sorted(ENVIRONMENT))}."
            )
    for key in ("hydra.hydra_logging", "hydra.job_logging"):
        for inner, value in entries(key, _node(hydra, key)):
            _check_logging(inner, value)
    for key in ("hydra.launcher", "hydra.sweeper"):
        _check_plugin(composed, key, _node(hydra, key))


def _node(parent: dict[Any, Any], key: str) -> dict[Any, Any]:
    """Return the value of a key's last part, without resolving `${...}`."""
    node = parent.get(key.rpartition(".")[2])
    if node is None:
        return {}
    if not isinstance(node, dict):
        raise UserError(f"{key}={node}: {REFUSAL}")
    return node


def _check_logging(key: str, value: Any) -> None:
    """Check that a logger is built of known parts; names and patterns in it are free."""
    (last, *_) = (part for part in reversed(key.split(".")) if not part.isdigit())
    if last in LOGGING:
        allowed = value in LOGGING[last]
    elif isinstance(value, str):
        allowed = last in LOGGING_TEXT and not any(mark in value for mark in ("${", "://"))
    else:
        allowed = value is None or isinstance(value, bool | int)
    if not allowed:
        raise UserError(f"{key}={value}: {REFUSAL}")


def _check_plugin(composed: DictConfig, key: str, raw: dict[Any, Any]) -> None:
    """Check that a launcher or sweeper is a plugin and that nothing within it is built."""
    if not raw:
        return
    if not str(raw.get("_target_")).startswith(PLUGINS):
        raise UserError(f"{key}._target_={raw.get('_target_')}: {REFUSAL}")
    try:  # Hydra builds what stands behind `${...}` as well
        resolved = OmegaConf.to_container(OmegaConf.select(composed, key), resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{key}: {str(error).splitlines()[0]}") from error
    for inner, _ in entries(key, resolved):
        if inner.endswith("_target_") and inner not in TARGETS:
            raise UserError(f"{inner}: {REFUSAL}")


def entries(key: str, raw: Any) -> Iterator[tuple[str, Any]]:
    """Yield each value below a key that is not a container, with its full key."""
    if isinstance(raw, dict | list):
        for name, value in raw.items() if isinstance(raw, dict) else enumerate(raw):
            yield from entries(f"{key}.{name}" if key else str(name), value)
    else:
        yield key, raw
