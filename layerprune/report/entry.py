"""A point as the report reads it: every number checked once, so that nothing below looks twice."""

import math
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from layerprune.record.point import ACCURACIES, Point, content_hash
from layerprune.record.speed import Speed
from layerprune.report.checks import count, number, text
from layerprune.report.healing import Healing, read_healing
from layerprune.report.timing import read_speed


class Value(NamedTuple):
    """One number with its standard error, if it has one."""

    value: float
    stderr: float | None


class Answers(NamedTuple):
    """What came out of one task or group of tasks."""

    task: str
    parent: str | None
    measures: dict[str, Value]
    measure: str | None
    """The name of the one that is an accuracy; None if none is."""
    num_samples: int
    num_fewshot: int
    version: str
    chance: float | None
    """Of guessing evenly; 0 of an answer that is written: nobody guesses that."""
    majority: float | None
    """Accuracy of always giving the most common right answer; None where there is no such answer,
    and in records from before it was kept."""
    correct: str | None
    """A digit for each question, 1 where it was answered rightly; None for a group of tasks."""

    @property
    def accuracy(self) -> Value | None:
        """The share of questions that were answered rightly, as `measure` counts it."""
        return None if self.measure is None else self.measures[self.measure]


@dataclass(frozen=True)
class HeldoutLoss:
    """The loss on held-out text."""

    nats: Value
    normalised: Value
    """Divided by ln V, and its standard error with it."""
    num_sequences: int


@dataclass(frozen=True)
class Origin:
    """With what a point was made."""

    time: str
    arguments: str
    """As a shell would take them."""
    commit: str | None
    machine: str
    device: str
    versions: dict[str, str]
    seconds: float
    """Of all stages together."""


@dataclass(frozen=True)
class Entry:
    """One point, read and checked."""

    key: str
    """Name of the point's folder."""
    curve_key: str
    """Hash of what the points of one curve share."""
    ground: str
    """Hash of what two points share if they have the same dense model and questions."""
    settings: dict[str, str]
    """Everything that changes the result, flat: `eval.limit`, `data.sequence_length`, ..."""
    model: str
    family: str
    metric: str
    strategy: str
    heal: str
    seed: int
    num_layers: int
    parameters: int
    """Of the model without the dropped layers."""
    weight_bytes: int | None
    """What these take as they are held; None in records from before it was counted."""
    fraction: float
    dropped: tuple[int, ...]
    answers: dict[str, Answers]
    """By the task's name, in lm-eval's order."""
    loss: HeldoutLoss
    healing: Healing | None
    """None for a point that was not healed."""
    speed: Speed | None
    """None for a point whose speed was not measured."""
    profile: str | None
    """Key of the distances that the plan was made from; None for one that was made step by step."""
    origin: Origin

    def accuracy(self, task: str) -> Value | None:
        """The accuracy on a task or group; None if it was not asked, or has no accuracy."""
        return self.answers[task].accuracy if task in self.answers else None

    def right(self, task: str) -> float:
        """The share of right answers to a task that has an accuracy."""
        accuracy = self.answers[task].accuracy
        assert accuracy is not None
        return accuracy.value

    @property
    def num_dropped(self) -> int:
        """How many layers are gone."""
        return len(self.dropped)

    @property
    def first_layer(self) -> int | None:
        """The lowest layer that is gone; None for the dense model."""
        return min(self.dropped, default=None)


def read_entry(point: Point) -> Entry:
    """The entry of a point. Raises `ValueError`, saying why, if its content is not a point's."""
    try:
        return _entry(point)
    except KeyError as error:
        raise ValueError(f"it lacks {error}") from error
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"its content is not that of a point ({error})") from error


def ranges(layers: Iterable[int]) -> str:
    """Layers in short, runs joined: `3, 11-19`; an en-dash alone if there are none."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) or "–"  # noqa: RUF001


def _entry(point: Point) -> Entry:
    model, metric, strategy, heal, _ = point.curve
    plan, loss = point.plan, point.loss
    num_layers = count(point.model["num_layers"])
    dropped = tuple(sorted(count(layer) for layer in plan["dropped"]))
    if len(set(dropped)) != len(dropped) or (dropped and dropped[-1] >= num_layers):
        raise ValueError(f"layers {list(dropped)} of {num_layers}")
    healing = read_healing(point.healing)
    if healing is not None and healing.recipe != heal:
        raise ValueError(f"healed by {healing.recipe}, where {heal} was asked for")
    answers = [_answers(score) for score in point.scores]
    weight_bytes = point.model.get("weight_bytes")
    return Entry(
        key=text(point.key),
        curve_key=point.curve_key,
        ground=_ground(point),
        settings=dict(_leaves(point.identity)),
        model=text(model),
        family=text(point.model["family"]),
        metric=text(metric),
        strategy=text(strategy),
        heal=text(heal),
        seed=count(point.identity["seed"]),
        num_layers=num_layers,
        parameters=count(point.model["parameters_kept"]),
        weight_bytes=None if weight_bytes is None else count(weight_bytes),
        fraction=number(plan["fraction"]),
        dropped=dropped,
        answers={each.task: each for each in answers},
        loss=_loss(loss),
        healing=healing,
        speed=read_speed(point.speed),
        profile=None if plan["profile"] is None else text(plan["profile"]),
        origin=_origin(point),
    )


def _ground(point: Point) -> str:
    shared = {name: point.identity[name] for name in ("model", "eval", "data")}
    # Whether speed was measured changes no answer.
    shared["eval"] = {name: of for name, of in shared["eval"].items() if name != "speed"}
    return content_hash(shared)


def _answers(score: dict[str, Any]) -> Answers:
    chance, majority, parent = score["chance"], score.get("majority"), score["parent"]
    num_samples = count(score["num_samples"])
    if chance is None and any(name.startswith("exact_match") for name in score["measures"]):
        chance = 0.0
    return Answers(
        task=text(score["task"]),
        parent=None if parent is None else text(parent),
        measures={
            text(name): Value(
                number(measure["value"]),
                None if measure["stderr"] is None else number(measure["stderr"]),
            )
            for name, measure in score["measures"].items()
        },
        measure=_measure(score),
        num_samples=num_samples,
        num_fewshot=count(score["num_fewshot"]),
        version=str(score["version"]),
        chance=None if chance is None else number(chance),
        majority=None if majority is None else number(majority),
        correct=_correct(score.get("correct"), num_samples),
    )


def _measure(score: dict[str, Any]) -> str | None:
    """The accuracy; older records do not name it."""
    if "accuracy" not in score:
        names = _accuracies(tuple(score["measures"]))
        digits = score.get("correct")
        if len(names) > 1 and digits:  # of several filters, the one whose answers are kept
            share = digits.count("1") / len(digits)
            names = sorted(names, key=lambda each: abs(score["measures"][each]["value"] - share))
        return next(iter(names), None)
    named = score["accuracy"]
    if named is not None and named not in score["measures"]:
        raise ValueError(f"{named!r} is none of its measures")
    return None if named is None else text(named)


@lru_cache
def _accuracies(names: tuple[str, ...]) -> list[str]:
    # A filter may follow the name: `exact_match.strict-match`.
    kinds = [(name.partition(".")[0], name) for name in names]
    found = ([name for kind, name in kinds if kind == sought] for sought in ACCURACIES)
    return next(filter(None, found), [])


def _correct(digits: Any, num_samples: int) -> str | None:
    if digits is None:
        return None
    if text(digits).strip("01") or len(digits) != num_samples:
        raise ValueError(f"{len(digits)} answers, not {num_samples} times 0 or 1")
    return str(digits)


def _loss(loss: dict[str, Any]) -> HeldoutLoss:
    nats, normalised, stderr = (number(loss[name]) for name in ("nats", "normalised", "stderr"))
    # The record holds the error of the nats only; dividing by ln V divides it too.
    scaled = stderr * normalised / nats if nats else 0.0
    return HeldoutLoss(Value(nats, stderr), Value(normalised, scaled), count(loss["num_sequences"]))


def _origin(point: Point) -> Origin:
    made = point.provenance
    commit = made["commit"]
    return Origin(
        time=text(made["time"]),
        arguments=shlex.join(text(argument) for argument in made["arguments"]),
        commit=None if commit is None else text(commit),
        machine=f"{made['platform']}, {made['cpus']} CPUs, {made['threads']} threads"
        + (", deterministic" if made.get("deterministic") else ""),
        device=text(made["device"]),
        versions={
            "python": text(made["python"]),
            **{name: text(of) for name, of in made["versions"].items() if of is not None},
        },
        seconds=math.fsum(number(value) for value in point.costs["seconds"].values()),
    )


def _leaves(content: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every value inside nested dictionaries, by its dotted name."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _leaves(value, f"{path}.{name}" if path else name)
    else:
        parts = content if isinstance(content, list) else [content]
        yield path, ", ".join("not set" if part is None else str(part) for part in parts)
