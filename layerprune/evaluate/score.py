"""What lm-eval's results say of each task and group."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layerprune.record.point import ACCURACIES


@dataclass(frozen=True)
class Measure:
    """One number that lm-eval gives for a task."""

    value: float
    stderr: float | None


@dataclass(frozen=True)
class Score:
    """What lm-eval says of one task or group."""

    task: str
    parent: str | None
    """The group this task was counted in, if any."""
    measures: dict[str, Measure]
    """By lm-eval's name: acc, acc_norm, exact_match, ..."""
    num_samples: int
    num_fewshot: int
    version: str
    chance: float | None
    """Accuracy of blind guessing: the mean of 1 / number of options; None without options."""
    majority: float | None
    """Accuracy of always giving the most common right answer; None where questions differ in their
    options, or in the order of these."""
    correct: str | None
    """A digit for each question in lm-eval's order, 1 where `accuracy` counts it as right."""
    accuracy: str | None
    """The measure that counts questions as right or not: of several filters that of the first."""


def scores_of(results: Any, tasks: Mapping[str, Any]) -> list[Score]:
    """The scores of every task and group, in lm-eval's order.

    `results` is what its `evaluate` returns with samples, `tasks` are its tasks by name.
    """
    scored = {**results.get("groups", {}), **results["results"]}
    # A group without an aggregate has no number of its own, and is nobody's parent.
    measures = {name: _measures(row) for name, row in scored.items()}
    parents = {
        child: group
        for group, children in results["group_subtasks"].items()
        for child in children
        if measures.get(group)
    }
    return [
        _score(name, measures[name], parents.get(name), results, tasks)
        for name in scored
        if measures[name]
    ]


def _score(
    name: str,
    measures: dict[str, Measure],
    parent: str | None,
    results: Any,
    tasks: Mapping[str, Any],
) -> Score:
    leaves = _leaves(name, results["group_subtasks"])
    answers = {leaf: _first_filter(results["samples"][leaf]) for leaf in leaves}
    chances = [chance for leaf in leaves for chance in _chances(tasks[leaf], answers[leaf])]
    golds = [gold for leaf in leaves for gold in _golds(tasks[leaf], answers[leaf])]
    return Score(
        task=name,
        parent=parent,
        measures=measures,
        num_samples=sum(map(len, answers.values())),
        num_fewshot=int(results["n-shot"].get(name, 0)),
        version=str(results["versions"].get(name)),
        chance=_mean(chances),
        majority=_majority(golds),
        correct=_correct(answers[name]) if name in answers else None,
        accuracy=_accuracy(measures, [answers[leaf][0]["filter"] for leaf in leaves]),
    )


def _leaves(name: str, children: dict[str, list[str]]) -> list[str]:
    """The tasks below a group; a task itself."""
    below = children.get(name)
    return [leaf for child in below for leaf in _leaves(child, children)] if below else [name]


def _measures(row: dict[str, Any]) -> dict[str, Measure]:
    """Every number of a result row; lm-eval's keys are `measure,filter`."""
    measures = {}
    for key, value in row.items():
        measure, comma, kind = key.partition(",")
        if not comma or measure.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = row.get(f"{measure}_stderr,{kind}")
        measures[_filtered(measure, kind)] = Measure(
            float(value), float(stderr) if isinstance(stderr, int | float) else None
        )
    return measures


def _filtered(measure: str, kind: str) -> str:
    """The name of a measure after one of lm-eval's filters."""
    return measure if kind == "none" else f"{measure}.{kind}"


def _accuracy(measures: Mapping[str, Measure], kinds: Sequence[str]) -> str | None:
    """The measure that counts what is right, given the filters whose answers are counted."""
    names = [_filtered(measure, kind) for measure in ACCURACIES for kind in kinds]
    # A group may be counted by another filter than the first of its tasks.
    names += [name for each in ACCURACIES for name in measures if name.partition(".")[0] == each]
    return next((name for name in names if name in measures), None)


def _first_filter(samples: Sequence[Any]) -> list[Any]:
    """The samples of a task, once each: lm-eval lists them again for every filter."""
    return [sample for sample in samples if sample["filter"] == samples[0]["filter"]]


def _chances(task: Any, samples: Sequence[Any]) -> list[float | None]:
    """What guessing evenly scores on each question; None where that cannot be said."""
    if task.OUTPUT_TYPE != "multiple_choice" or task.config.process_results is not None:
        return [None]
    return [1 / len(task.doc_to_choice(sample["doc"])) for sample in samples]


def _golds(task: Any, samples: Sequence[Any]) -> list[tuple[tuple[str, ...], int] | None]:
    """Each question's options and which of them is right; None where no single one is."""
    if task.OUTPUT_TYPE != "multiple_choice" or task.config.process_results is not None:
        return [None]
    golds: list[tuple[tuple[str, ...], int] | None] = []
    for sample in samples:
        options = tuple(task.doc_to_choice(sample["doc"]))
        gold = task.doc_to_target(sample["doc"])
        if isinstance(gold, str) and gold in options:
            gold = options.index(gold)
        single = isinstance(gold, int) and 0 <= gold < len(options)
        golds.append((options, int(gold)) if single else None)
    return golds


def _majority(golds: Sequence[tuple[tuple[str, ...], int] | None]) -> float | None:
    """The share of the most common right answer; None where options differ or one is not known."""
    if not golds or None in golds or len({gold[0] for gold in golds if gold is not None}) != 1:
        return None
    return max(Counter(golds).values()) / len(golds)


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None if one is missing or there are none."""
    numbers = [value for value in values if value is not None]
    return math.fsum(numbers) / len(numbers) if values and len(numbers) == len(values) else None


def _correct(samples: Sequence[Any]) -> str | None:
    """A digit for each question, 1 where it counts as right; None where that is no yes or no."""
    values = [next((of[name] for name in ACCURACIES if name in of), None) for of in samples]
    if not values or any(value not in (0, 1) for value in values):
        return None
    return "".join("1" if value else "0" for value in values)
