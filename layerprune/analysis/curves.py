"""The curves of a study, and the tasks that they were evaluated on."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from layerprune.record.point import Point
from layerprune.record.scores import Score

UNHEALED = "none"
"""The recipe of points that were not healed."""

GIVEN = "given"
"""The strategy of points whose layers the user named: nothing else joins them."""

SHOWN = 16
"""Characters of a setting in a curve's name, repeated until all of them differ."""

JOINT = " · "
"""Separates the parts of a curve's name."""


@dataclass(frozen=True)
class Curve:
    """The points that differ only in the layers dropped."""

    label: str
    """Its name among the study's curves."""
    short: str
    """The same without the model's name."""
    hue: str
    """The key of its colour: what tells it from other curves, as short as possible."""
    base_hue: str
    """The same without the seed: repeats of one curve are tints of one colour."""
    mark: str
    """The key of its point shape."""
    points: tuple[Point, ...]
    """In rising order of layers dropped."""
    dense: Point | None
    """The dense model, not healed, on the same questions, perhaps from another curve."""

    @property
    def first(self) -> Point:
        """A point, for the settings that all of them share."""
        return self.points[0]

    def scored(self, task: str) -> list[Point]:
        """Return the points that have an accuracy on a task."""
        return [point for point in self.points if point.accuracy(task)]


@dataclass(frozen=True)
class Task:
    """A task or group of tasks that has an accuracy."""

    name: str
    parent: str | None
    children: tuple[str, ...]
    """The tasks and groups counted in it, in lm-eval's order."""
    num_subjects: int
    """Tasks counted in it, in groups within groups too."""
    num_samples: tuple[int, ...]
    """Numbers of questions: one, unless the study's curves differ."""
    measure: str
    """lm-eval's name of its accuracy: acc, exact_match, ..."""
    chances: tuple[float, ...]
    """Chance accuracies, likewise; empty without options."""

    @property
    def size(self) -> str:
        """The numbers of questions and subjects, in words."""
        low, high = self.num_samples[0], self.num_samples[-1]
        questions = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        subjects = f" ({self.num_subjects} subjects)" if self.num_subjects > 1 else ""
        return f"{questions} question{'' if high == 1 else 's'}{subjects}"


def make_curves(points: Iterable[Point]) -> list[Curve]:
    """Return the curves of a study, in an order that depends on their content alone."""
    by_key: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        by_key[point.curve_key].append(point)
    groups = sorted((sorted(group, key=_depth) for group in by_key.values()), key=_rank)
    # A dense model that was healed is no reference for other curves.
    dense = {
        point.comparison_key: point
        for group in reversed(groups)
        for point in group
        if not point.plan.dropped and point.recipe == UNHEALED
    }
    firsts = [group[0] for group in groups]
    names = _names(firsts)
    return [
        Curve(*name, points=tuple(group), dense=dense.get(group[0].comparison_key))
        for name, group in zip(names, groups, strict=True)
    ]


def make_tasks(curves: Iterable[Curve]) -> list[Task]:
    """Return every task and group that has an accuracy, in the order of evaluation."""
    by_task: dict[str, list[Score]] = defaultdict(list)
    for curve in curves:
        for point in curve.points:
            for score in point.task_scores.values():
                if score.accuracy is not None:
                    by_task[score.task].append(score)
    children = {
        name: tuple(child for child, scores in by_task.items() if scores[0].parent == name)
        for name in by_task
    }
    return [
        Task(
            name,
            scores[0].parent,
            children[name],
            _num_leaves(name, children),
            tuple(sorted({score.num_samples for score in scores})),
            str(scores[0].accuracy),
            tuple(sorted({score.chance for score in scores if score.chance})),
        )
        for name, scores in by_task.items()
    ]


def _num_leaves(name: str, children: dict[str, tuple[str, ...]]) -> int:
    """Return the number of tasks below a group; 1 for a task itself."""
    return sum(_num_leaves(child, children) for child in children[name]) or 1


def _names(firsts: Sequence[Point]) -> list[tuple[str, str, str, str, str]]:
    """Return label, label without model, hue, hue without seed, and mark of each curve."""
    models = _vary(point.model.name for point in firsts)
    metrics = _vary(point.plan.metric for point in firsts)
    recipes = {point.recipe for point in firsts}
    marks, parts = [], []
    for point in firsts:
        marks.append(JOINT.join([point.plan.strategy, point.plan.metric][: 2 if metrics else 1]))
        recipe = "not healed" if point.recipe == UNHEALED else point.recipe
        parts.append([marks[-1], *([recipe] if len(recipes) > 1 else [])])
    names = []
    for point, mark, part in zip(firsts, marks, parts, strict=True):
        model = point.model.name
        settings = _differing_settings(
            point,
            [
                other
                for other, other_part in zip(firsts, parts, strict=True)
                if (other.model.name, other_part) == (model, part)
            ],
        )
        hue = [model] if models else [mark] if _vary(marks) else []
        hue += [text for name, text in settings.items() if name != "seed"]
        several = len(recipes - {UNHEALED}) > 1
        if several and point.recipe != UNHEALED:
            hue.append(point.recipe)  # lines and dots tell only healed from not healed
        base_hue = JOINT.join(hue) or ("unhealed" if several and point.recipe == UNHEALED else mark)
        if "seed" in settings:
            hue.append(settings["seed"])
        short = [*part, *settings.values()]
        label = [model, *short] if models else short
        names.append(
            (JOINT.join(label), JOINT.join(short), JOINT.join(hue) or base_hue, base_hue, mark)
        )
    return names


def _differing_settings(point: Point, same: Sequence[Point]) -> dict[str, str]:
    """Return the settings, as texts by name, in which curves of the same name differ."""
    texts = {}
    for name in dict.fromkeys(name for other in same for name in other.settings):
        value, values = _setting(point, name), {_setting(other, name) for other in same}
        if value is not None and not name.startswith("prune.") and len(values) > 1:
            short = _distinct_prefix(value, {other or "" for other in values})
            texts[name] = f"seed {value}" if name == "seed" else f"{name}={short}"
    return texts


def _setting(point: Point, name: str) -> str | None:
    """Return a setting as a text; `identity` leaves out some that have their default."""
    if name in point.settings:
        return point.settings[name]
    value: Any = point.config
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return None if value is None or isinstance(value, dict | list) else str(value)


def _distinct_prefix(value: str, values: Collection[str]) -> str:
    """Return so much of a value that it differs from as much of the others."""
    length = SHOWN
    while len({other[:length] for other in values}) < len(values):
        length += SHOWN
    return value[:length]


def _vary(values: Iterable[object]) -> bool:
    return len(set(values)) > 1


def _depth(point: Point) -> tuple[int, tuple[int, ...], str]:
    return point.num_dropped, point.plan.dropped, point.key


def _rank(group: Sequence[Point]) -> tuple[object, ...]:
    first = group[0]
    model, metric, strategy, recipe, _ = first.curve
    settings = [
        (name, _natural_order(value))
        for name, value in sorted(first.settings.items())
        if not name.startswith("prune.")
    ]
    # Not healed before healed, whatever the recipe is called.
    healed = recipe != UNHEALED
    return model, metric, strategy, healed, recipe, first.seed, settings, first.curve_key


def _natural_order(text: str) -> list[str | int]:
    """Return a sort key of a text in which 8 comes before 64."""
    parts = re.split("([0-9]+)", text)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]
