"""What a point's result may depend on: the source of its key."""

import re
from dataclasses import asdict
from enum import Enum
from typing import Any

from layerprune.config.schema import Calibration, Config
from layerprune.plan.target import Target
from layerprune.record.point import SCHEMA, content_hash


def identity(
    config: Config, name: str, model: str, text: str, questions: str, target: Target
) -> dict[str, Any]:
    """What a point's result may depend on: not its paths, tracker, device, batch size or log level.

    `name` is the model's label, `model` the fingerprint of its files, `text` the digest of the
    documents, `questions` that of the task files.
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
        },
        "heal": {
            key: value
            for key, value in asdict(config.heal).items()
            if value is not None and key not in _changes_nothing(config)
        },
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
    }


def _of_questions(config: Config) -> bool:
    """Whether distances are measured on the questions: points on text have no word for it."""
    return config.data.calibration is Calibration.questions


def _weights(config: Config, model: str) -> dict[str, Any]:
    """What is computed with: the files, and the form in which their weights are held."""
    held = config.model.quantization
    return {
        "fingerprint": model,
        "dtype": config.model.dtype.value,
        **({} if held is None else {"quantization": held.value}),
    }


def _fewshot(config: Config) -> dict[str, Any]:
    """What is said of solved examples beyond their number."""
    of, seed = config.eval.num_fewshot_of, config.eval.fewshot_seed
    return {
        **({"num_fewshot_of": dict(sorted(of.items()))} if of else {}),
        **({} if seed is None else {"fewshot_seed": seed}),
    }


def _metric(config: Config) -> dict[str, Any]:
    """The metric, and which tokens it looks at if it looks at any."""
    tokens = config.metric.tokens
    return {
        "metric": config.metric.name,
        **({} if tokens is None else {"metric_tokens": tokens.value}),
    }


def _changes_nothing(config: Config) -> set[str]:
    """Keys of healing that no result depends on beyond rounding."""
    # How a step's sequences are shared out decides on which of them `seam` takes the text's loss.
    shares = config.heal.recipe == "seam"
    return {"save_every"} if shares else {"save_every", "micro_batch_size"}


def profile_identity(config: Config, model: str, text: str, questions: str) -> dict[str, Any]:
    """What a matrix of distances depends on: the text, or the questions in its place."""
    measured_on: dict[str, Any] = {"text": text}
    if _of_questions(config):
        measured_on = {"questions": {"tasks": sorted(config.eval.tasks), "files": questions}}
    return {
        "schema": SCHEMA,
        "model": _weights(config, model),
        **_metric(config),
        # Drawn by it; nothing is drawn for the other metrics, and their distances are shared.
        **({"seed": config.seed} if config.metric.name == "random" else {}),
        # Others were rounded as it came.
        **({"deterministic": True} if config.runtime.deterministic else {}),
        **measured_on,
        "sequence_length": config.data.sequence_length,
        "sequences": config.data.calibration_sequences,
    }


def order_identity(config: Config, model: str, text: str, questions: str) -> dict[str, Any]:
    """What the order in which layers go one at a time depends on."""
    return {"strategy": config.prune.strategy, **profile_identity(config, model, text, questions)}


def point_key(identity: dict[str, Any]) -> str:
    """Name of the point's folder: readable first, then a hash of the identity."""
    label = identity["model"]["name"]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip(".-")[:40] or "model"
    prune = identity["prune"]
    return f"{name}-{prune['strategy']}-{prune['count']:02d}-{content_hash(identity)}"


def plain(value: Any) -> Any:
    """A configuration as JSON can hold it: enumerations by their values."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value.value if isinstance(value, Enum) else value
