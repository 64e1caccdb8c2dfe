"""One point of a curve, as it is kept in `record.json`: what a run returns and a report reads."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from layerprune.record.healing import Healing
from layerprune.record.provenance import Provenance
from layerprune.record.scores import Measure, Score
from layerprune.record.speed import Speed
from layerprune.record.validation import Count, ForeignRecord, Number, parse

SCHEMA = 1
"""Raised whenever a record's form, or the meaning of a number in it, changes."""

HELDOUT = "heldout"
"""The task name under which the loss on held-out text appears in tables."""


@dataclass(frozen=True)
class PrunedModel:
    """The model of a point."""

    name: str
    """Label: `model.name`, or the name of the model's folder."""
    family: str
    """Model family, by which curves are compared."""
    num_layers: Count
    """Layers of the dense model."""
    parameters_kept: Count
    """Parameters that remain after the cut."""
    weight_bytes: Count
    """Bytes of the remaining weights in memory, after quantization."""


@dataclass(frozen=True)
class PointPlan:
    """The layers that were removed, and why these; indices are 0-based and rise."""

    strategy: str
    """`given` for layers that the user named."""
    metric: str
    """Metric of the configuration."""
    fraction_asked: Number
    """Requested fraction of layers."""
    fraction: Number
    """Fraction of layers that was removed: n / L."""
    num_layers: Count
    """Layers of the dense model."""
    dropped: tuple[Count, ...]
    """Removed layers."""
    kept: tuple[Count, ...]
    """Remaining layers."""
    score: Number | None
    """Score by which the strategy chose the layers; None if it has none."""
    reason: str
    """Reason for the choice, in words."""
    profile: str | None
    """Key of the layer distances behind the plan; None if the strategy used no distance matrix."""

    def __post_init__(self) -> None:
        layers = list(self.dropped)
        if layers != sorted({*layers}) or (layers and layers[-1] >= self.num_layers):
            raise ValueError(f"dropped: layers {layers} of {self.num_layers}")


@dataclass(frozen=True)
class HeldoutLoss:
    """Mean next-token cross-entropy over sequences of held-out text."""

    nats: Number
    """Nats per token."""
    normalised: Number
    """`nats` divided by ln V: 1 is chance (Gromov et al., arXiv 2403.17887, figure 3)."""
    stderr: Number
    """Standard error of `nats` over sequences; 0 for a single one."""
    num_sequences: Count
    """Held-out sequences that the loss is averaged over."""

    @property
    def measures(self) -> dict[str, Measure]:
        """The loss in nats and divided by ln V, each with its standard error."""
        scaled = self.stderr * self.normalised / self.nats if self.nats else 0.0
        return {
            "loss": Measure(self.nats, self.stderr),
            "loss_normalised": Measure(self.normalised, scaled),
        }


@dataclass(frozen=True)
class Costs:
    """Time and memory of a point, without its healing."""

    seconds: dict[str, Number]
    """Seconds per stage; points that were evaluated together get equal shares."""
    shared_by: Count
    """Number of points that were evaluated together."""
    peak_memory_bytes: Count
    """Peak memory of the process, over all points that were evaluated together."""

    @property
    def total_seconds(self) -> float:
        """The seconds of all stages together."""
        return math.fsum(self.seconds.values())


@dataclass(frozen=True)
class Point:
    """A pruned model and everything that was measured on it."""

    key: str
    """Name of the point's folder, which ends with a hash of `identity`."""
    identity: dict[str, Any]
    """All settings that the result may depend on."""
    config: dict[str, Any]
    """The resolved configuration."""
    model: PrunedModel
    """The cut model."""
    plan: PointPlan
    """The removed layers, and the reason for them."""
    scores: tuple[Score, ...]
    """One entry per task or group, in lm-eval's order."""
    loss: HeldoutLoss
    """Loss on held-out text."""
    costs: Costs
    """Time and memory, without healing."""
    provenance: Provenance
    """Versions, machine and command line."""
    healing: Healing | None = None
    """None for an unhealed point."""
    speed: Speed | None = None
    """None if speed was not measured."""

    def __post_init__(self) -> None:
        if self.plan.num_layers != self.model.num_layers:
            raise ValueError(f"plan: {self.plan.num_layers} of {self.model.num_layers} layers")
        try:
            recipe, seed = self.recipe, self.seed
            if not isinstance(recipe, str) or type(seed) is not int or seed < 0:
                raise ValueError(f"recipe {recipe!r}, seed {seed!r}")
            if not (self.curve_key and self.comparison_key):  # both can be computed
                raise ValueError("it has no key")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"identity: {error!r}") from error
        if self.healing is not None and self.healing.recipe != recipe:
            raise ValueError(f"healing: healed by {self.healing.recipe}, not by {recipe}")

    def to_json(self) -> dict[str, Any]:
        """Return the content of `record.json`."""
        return {"schema": SCHEMA, "status": "ok", **asdict(self)}

    @classmethod
    def from_json(cls, content: Any) -> "Point":
        """Return the point in a record. Raises `ForeignRecord` if it isn't one of this schema."""
        if not isinstance(content, dict) or "schema" not in content:
            raise ForeignRecord("it is not a record of layerprune")
        if content["schema"] != SCHEMA:
            raise ForeignRecord(f"its schema is {content['schema']}, this version reads {SCHEMA}")
        return parse(cls, content)

    @property
    def recipe(self) -> str:
        """The healing recipe, `none` without healing."""
        return self.identity["heal"]["recipe"]

    @property
    def seed(self) -> int:
        """The seed of all random draws."""
        return self.identity["seed"]

    @property
    def total_seconds(self) -> float:
        """Seconds of all stages and of healing; of what points share, the point's share."""
        healing = self.healing
        healed = 0.0
        if healing is not None:
            healed = healing.share * (healing.seconds + healing.prepare_seconds)
        return self.costs.total_seconds + healed

    @property
    def num_dropped(self) -> int:
        """Number of layers removed."""
        return len(self.plan.dropped)

    @property
    def first_layer(self) -> int | None:
        """The lowest layer that was removed; None for the dense model."""
        return min(self.plan.dropped, default=None)

    @cached_property
    def task_scores(self) -> dict[str, Score]:
        """The scores by the task's name."""
        return {score.task: score for score in self.scores}

    def accuracy(self, task: str) -> Measure | None:
        """Return the accuracy on a task or group; None if it wasn't evaluated, or has none."""
        return self.task_scores[task].correct_share if task in self.task_scores else None

    def correct_share(self, task: str) -> float:
        """Return the share of correct answers to a task that has an accuracy."""
        accuracy = self.accuracy(task)
        assert accuracy is not None
        return accuracy.value

    @cached_property
    def settings(self) -> dict[str, str]:
        """The leaves of `identity` as texts by dotted name: `eval.limit`, ..."""
        return dict(_leaves(self.identity))

    @property
    def curve(self) -> tuple[str, ...]:
        """Model, metric, strategy, recipe and seed: what points of one curve share, for people."""
        plan = self.plan
        return self.model.name, plan.metric, plan.strategy, self.recipe, str(self.seed)

    @cached_property
    def curve_key(self) -> str:
        """Hash of everything that the points of one curve share."""
        return content_hash({**self.identity, "prune": {"strategy": self.plan.strategy}})

    @cached_property
    def comparison_key(self) -> str:
        """Hash of the dense model, the evaluation and the data: equal for comparable points."""
        shared = {name: self.identity[name] for name in ("model", "eval", "data")}
        if "runtime" in self.identity:
            shared["runtime"] = self.identity["runtime"]
        # Measuring speed changes no answer.
        shared["eval"] = {name: of for name, of in shared["eval"].items() if name != "speed"}
        return content_hash(shared)


def content_hash(content: Any) -> str:
    """Return twelve hex digits of the SHA-256 of `content` as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def layer_ranges(layers: Iterable[int]) -> str:
    """Return layers in short: `3, 11-19`; an en dash if there are none."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) or "–"  # noqa: RUF001


def _leaves(content: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _leaves(value, f"{path}.{name}" if path else name)
    else:
        parts = content if isinstance(content, list) else [content]
        yield path, ", ".join("not set" if part is None else str(part) for part in parts)
