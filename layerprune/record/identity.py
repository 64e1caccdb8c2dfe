"""The identity of a point, from which its key is made: everything that its result depends on."""

import re
from dataclasses import asdict, fields
from enum import Enum
from typing import Any

from layerprune.config.schema import Calibration, Config, MatmulPrecision, PruneOptions
from layerprune.prune.target import Target
from layerprune.record.point import SCHEMA, content_hash


def identity(
    config: Config, name: str, model: str, text: str, questions: str, target: Target
) -> dict[str, Any]:
    """Return everything that a point's result depends on; paths, tracker and device are not in it.

    `name` is the model's label, `model` the fingerprint of its files, `text` the digest of the
    documents, `questions` the digest of the task files.
    """
    named = target.layers is not None
    return {
        "schema": SCHEMA,
        "seed": config.seed,
        "model": {"name": name, **_weights(config, model)},
        **_metric(config),
        "prune": {
            "strategy": "given" if named else config.prune.strategy,
            "count": target.count,
            "layers": list(target.layers) if target.layers is not None else None,
            **({} if named else _strategy_options(config)),
        },
        "heal": _healing(config),
        "eval": {
            "tasks": sorted(config.eval.tasks),
            "num_fewshot": config.eval.num_fewshot,
            "limit": config.eval.limit,
            "chat_template": config.eval.chat_template,
            "files": questions,
            **_fewshot(config),
            **({"speed": asdict(config.eval.speed)} if config.eval.speed.rounds else {}),
        },
        "data": {
            "text": text,
            "sequence_length": config.data.sequence_length,
            "calibration_sequences": config.data.calibration_sequences,
            "heldout_sequences": config.data.heldout_sequences,
            **({"calibration": "questions"} if _of_questions(config) else {}),
        },
        **_runtime(config),
    }


def float32_products(config: Config) -> dict[str, str]:
    """Return the precision of float32 products; nothing for exact ones, which have no key."""
    precision = config.runtime.float32_matmul_precision
    if precision is MatmulPrecision.highest:
        return {}
    return {"float32_matmul_precision": precision.value}


def _runtime(config: Config) -> dict[str, Any]:
    """Return the settings of `runtime` that change a result by more than the order of sums."""
    settings = float32_products(config)
    return {"runtime": settings} if settings else {}


def _of_questions(config: Config) -> bool:
    """Return True if distances are measured on questions; points on text have no key for it."""
    return config.data.calibration is Calibration.questions


def _weights(config: Config, model: str) -> dict[str, Any]:
    """Return the fingerprint of the model's files, and the type of its weights."""
    quantization = config.model.quantization
    return {
        "fingerprint": model,
        "dtype": config.model.dtype.value,
        **({} if quantization is None else {"quantization": quantization.value}),
    }


def _fewshot(config: Config) -> dict[str, Any]:
    """Return the settings of few-shot examples other than their number."""
    of, seed = config.eval.num_fewshot_of, config.eval.fewshot_seed
    return {
        **({"num_fewshot_of": dict(sorted(of.items()))} if of else {}),
        **({} if seed is None else {"fewshot_seed": seed}),
    }


def _metric(config: Config) -> dict[str, Any]:
    """Return the metric and its options, as `metric_tokens`."""
    options = plain(asdict(config.metric))
    name = options.pop("name")
    return {"metric": name, **{f"metric_{key}": value for key, value in options.items()}}


def _strategy_options(config: Config) -> dict[str, Any]:
    """Return the options that only this strategy has."""
    shared = {field.name for field in fields(PruneOptions)}
    options = plain(asdict(config.prune))
    return {key: value for key, value in options.items() if key not in shared}


def _healing(config: Config) -> dict[str, Any]:
    """Return the options of healing, without those that change a result by rounding only."""
    ignored = {"save_every"}
    if not config.heal.uses_micro_batches:
        ignored.add("micro_batch_size")
    options = recorded_config(config)["heal"].items()
    return {key: value for key, value in options if value is not None and key not in ignored}


def profile_identity(config: Config, model: str, text: str, questions: str) -> dict[str, Any]:
    """Return everything that a matrix of distances depends on, its text or questions included."""
    measured_on: dict[str, Any] = {"text": text}
    if _of_questions(config):
        measured_on = {"questions": {"tasks": sorted(config.eval.tasks), "files": questions}}
    return {
        "schema": SCHEMA,
        "model": _weights(config, model),
        **_metric(config),
        # Metrics that draw nothing share their distances over seeds.
        **({"seed": config.seed} if config.metric.uses_seed else {}),
        # Without it, rounding may vary between runs.
        **({"deterministic": True} if config.runtime.deterministic else {}),
        **float32_products(config),
        **measured_on,
        "sequence_length": config.data.sequence_length,
        "sequences": config.data.calibration_sequences,
    }


def order_identity(config: Config, model: str, text: str, questions: str) -> dict[str, Any]:
    """Return everything that the order of greedy removal depends on."""
    return {
        "strategy": config.prune.strategy,
        **_strategy_options(config),
        **profile_identity(config, model, text, questions),
    }


def training_identity(
    config: Config, model: str, text: str, questions: str, counts: range
) -> dict[str, Any]:
    """Return everything that one training for several numbers of removed layers depends on."""
    # Adapters are scaled after training; the other two decide on the numbers.
    without = {"strength", "max_fraction", "bands"}
    return {
        "counts": list(counts),
        "seed": config.seed,
        "heal": {name: value for name, value in _healing(config).items() if name not in without},
        "text": text,
        "heldout_sequences": config.data.heldout_sequences,
        "cuts": order_identity(config, model, text, questions),
    }


def point_key(identity: dict[str, Any]) -> str:
    """Return the name of a point's folder: a readable part, then a hash of the identity."""
    label = identity["model"]["name"]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip(".-")[:40] or "model"
    prune = identity["prune"]
    return f"{name}-{prune['strategy']}-{prune['count']:02d}-{content_hash(identity)}"


RECORDED_KEYS = {
    "metric": ("name", "tokens"),
    "heal": (
        "recipe", "steps", "batch_size", "micro_batch_size", "sequence_length", "learning_rate",
        "warmup_steps", "optimizer", "weight_decay", "max_grad_norm", "eval_every", "save_every",
        "stop_when", "rank", "dropout", "targets", "last_layers", "sequences", "text_weight",
        "text_share", "logits_weight", "seam_weight", "seam_layers",
    ),
}  # fmt: skip
"""Keys that records of this schema hold for each choice of a group, null where it has none."""


def recorded_config(config: Config) -> dict[str, Any]:
    """Return the configuration of a job as records hold it."""
    content: dict[str, Any] = plain(asdict(config))
    del content["figure"]  # of the report, not of points
    for group, keys in RECORDED_KEYS.items():
        given = {key: value for key, value in content[group].items() if value is not None}
        content[group] = dict.fromkeys(keys) | given
    del content["prune"]["layers_dropped"]  # a point states its fraction
    for name in ("path", "gguf_from"):
        del content["export"][name]  # and files may be moved
    if content["export"]["gguf_type"] is None:
        del content["export"]["gguf_type"]
    for name in ("parts", "sha256"):
        if content["model"][name] is None:
            del content["model"][name]
    return content


def plain(value: Any) -> Any:
    """Return a configuration as JSON can hold it: enumerations by their values."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value.value if isinstance(value, Enum) else value
