"""One point of a curve, as it stands in its `record.json`."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = 1
"""Raised whenever a record's form, or the meaning of a number in it, changes."""

ACCURACIES = ("acc", "exact_match")
"""The measures that count each question as right or not."""

HELDOUT = "heldout"
"""The task name under which the loss on held-out text appears in tables."""


class ForeignRecord(ValueError):  # noqa: N818 - it says what was found
    """A file that is no record of this schema."""


@dataclass(frozen=True)
class Point:
    """What was asked, what was cut, what came out, and how."""

    key: str
    """Name of the point's folder; its last part is a hash of `identity`."""
    identity: dict[str, Any]
    """Everything that the result may depend on."""
    config: dict[str, Any]
    """The whole resolved configuration."""
    model: dict[str, Any]
    """name, family, num_layers (of the dense model), parameters_kept, weight_bytes."""
    plan: dict[str, Any]
    """strategy, metric, fraction_asked, fraction, num_layers, dropped, kept (0-based indices),
    score (the distance that decided, or null), reason, profile (key of the distances that all was
    decided by, or null)."""
    scores: list[dict[str, Any]]
    """One entry a task or group: task, parent, measures, num_samples, num_fewshot, version,
    chance, majority, correct, accuracy (the measure that `correct` follows, or null)."""
    loss: dict[str, Any]
    """nats (per token), normalised (by ln V), stderr, num_sequences."""
    costs: dict[str, Any]
    """Seconds of each stage, the process's peak memory in bytes, and shared_by: how many points
    were asked together, whose seconds are an even share and whose peak is that of all."""
    provenance: dict[str, Any]
    """How it was made: time, arguments, commit (`+` if changed), python, platform, cpus, threads,
    deterministic, device, versions."""
    healing: dict[str, Any] | None = None
    """What was done after the cut: recipe, tokens, seconds, trainable_parameters,
    heldout_before and heldout_after (nats), steps (step, loss, learning_rate, heldout), details.
    None if nothing was."""
    speed: dict[str, Any] | None = None
    """dense and pruned: prefill and decode (tokens per second), first_token_s, each median, low and
    high; weight_bytes, peak_bytes, flops_per_token, flops_per_new_token; prefill_ratio and
    decode_ratio to the dense model in the same round; rounds, batch_size, prompt_tokens,
    new_tokens. None if not measured."""

    def to_json(self) -> dict[str, Any]:
        """The content of `record.json`."""
        return {"schema": SCHEMA, "status": "ok", **asdict(self)}

    @classmethod
    def from_json(cls, content: Any) -> "Point":
        """The point in a record. Raises `ForeignRecord` if it is not one of this schema."""
        if not isinstance(content, dict) or "schema" not in content:
            raise ForeignRecord("it is not a record of layerprune")
        if content["schema"] != SCHEMA:
            raise ForeignRecord(f"its schema is {content['schema']}, this version reads {SCHEMA}")
        # A record without these was not healed, or not timed.
        content = {"healing": None, "speed": None, **content}
        names = cls.__dataclass_fields__
        missing = [name for name in names if name not in content]
        if missing:
            raise ForeignRecord(f"it lacks {', '.join(missing)}")
        return cls(**{name: content[name] for name in names})

    @property
    def num_dropped(self) -> int:
        """How many layers are gone."""
        return len(self.plan["dropped"])

    @property
    def curve(self) -> tuple[str, ...]:
        """What the points of one curve have in common, for people."""
        heal = self.identity["heal"]["recipe"]
        seed = str(self.identity["seed"])
        return self.model["name"], self.plan["metric"], self.plan["strategy"], heal, seed

    @property
    def curve_key(self) -> str:
        """Hash of what the points of one curve have in common."""
        shared = {**self.identity, "prune": {"strategy": self.plan["strategy"]}}
        return content_hash(shared)


def content_hash(content: Any) -> str:
    """Twelve hex digits of the SHA-256 of `content` as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
