"""The scores of each task and group in lm-eval's results."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from layerprune.record.scores import ACCURACIES, Measure, Score


class AnswerOptions(NamedTuple):
    """The options of a question, and the number of the right one; None if it is unknown."""

    options: tuple[str, ...]
    gold: int | None


def scores_of(results: Any, tasks: Mapping[str, Any]) -> list[Score]:
    """Return the scores of every task and group, in lm-eval's order.

    `results` is the result of its `evaluate` with samples, `tasks` are its tasks by name.
    """
    scored = {**results.get("groups", {}), **results["results"]}
    # A group without aggregated measures is not a parent.
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
    choices = [choice for leaf in leaves for choice in _choices(tasks[leaf], answers[leaf])]
    return Score(
        task=name,
        parent=parent,
        measures=measures,
        num_samples=sum(map(len, answers.values())),
        num_fewshot=int(results["n-shot"].get(name, 0)),
        version=str(results["versions"].get(name)),
        chance=_chance(choices),
        majority=_majority(choices),
        correct=_correct(answers[name]) if name in answers else None,
        accuracy=_accuracy(measures, [answers[leaf][0]["filter"] for leaf in leaves]),
    )


def _leaves(name: str, children: dict[str, list[str]]) -> list[str]:
    """Return the tasks below a group, or the task itself."""
    below = children.get(name)
    return [leaf for child in below for leaf in _leaves(child, children)] if below else [name]


def _measures(row: dict[str, Any]) -> dict[str, Measure]:
    """Return the measures of a result row; lm-eval's keys are `measure,filter`."""
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
    """Return the name of a measure after one of lm-eval's filters."""
    return measure if kind == "none" else f"{measure}.{kind}"


def _accuracy(measures: Mapping[str, Measure], kinds: Sequence[str]) -> str | None:
    """Return the accuracy measure, preferably after one of the filters `kinds`."""
    names = [_filtered(measure, kind) for measure in ACCURACIES for kind in kinds]
    # A group may have another filter than the first of its tasks.
    names += [name for base in ACCURACIES for name in measures if name.partition(".")[0] == base]
    return next((name for name in names if name in measures), None)


def _first_filter(samples: Sequence[Any]) -> list[Any]:
    """Return the samples of a task's first filter: lm-eval lists them again for every filter."""
    return [sample for sample in samples if sample["filter"] == samples[0]["filter"]]


def _choices(task: Any, samples: Sequence[Any]) -> list[AnswerOptions]:
    """Return the choice of each question; a single choice without options if there are none."""
    if task.OUTPUT_TYPE != "multiple_choice" or task.config.process_results is not None:
        return [AnswerOptions((), None)]
    choices = []
    for sample in samples:
        options = tuple(task.doc_to_choice(sample["doc"]))
        gold = task.doc_to_target(sample["doc"])
        if isinstance(gold, str) and gold in options:
            gold = options.index(gold)
        single = isinstance(gold, int) and 0 <= gold < len(options)
        choices.append(AnswerOptions(options, int(gold) if single else None))
    return choices


def _chance(choices: Sequence[AnswerOptions]) -> float | None:
    """Return the mean chance accuracy; None if it is unknown for a question."""
    if not choices or not all(choice.options for choice in choices):
        return None
    return math.fsum(1 / len(choice.options) for choice in choices) / len(choices)


def _majority(choices: Sequence[AnswerOptions]) -> float | None:
    """Return the share of the most common right answer; None if options differ or are unknown."""
    known = all(choice.gold is not None for choice in choices)
    if not known or len({choice.options for choice in choices}) != 1:
        return None
    return max(Counter(choices).values()) / len(choices)


def _correct(samples: Sequence[Any]) -> str | None:
    """Return a digit for each question, 1 if it counts as right; None if scores are not 0 or 1."""
    values = [
        next((sample[name] for name in ACCURACIES if name in sample), None) for sample in samples
    ]
    if not values or any(value not in (0, 1) for value in values):
        return None
    return "".join("1" if value else "0" for value in values)
