"""What a study says, in a few sentences made from its numbers."""

from collections.abc import Iterable, Sequence

from layerprune.report.curves import ACCURACY, Curve, Task
from layerprune.report.entry import Entry, Value, ranges

SHARE = 0.9
"""Of the dense model's margin over chance: what a pruned model must keep to count as good."""

MOST = 4
"""Sentences on single curves; with more, the figures and the table say it better."""


def percent(value: float) -> str:
    """A share as `45.0%`."""
    return f"{value:.1%}"


def accuracy(value: Value) -> str:
    """A share and its standard error as `45.0 ± 5.0%`."""
    if value.stderr is None:
        return percent(value.value)
    return f"{100 * value.value:.1f} ± {100 * value.stderr:.1f}%"


def last_good(curve: Curve, task: str) -> Entry | None:
    """The point up to which every point of a curve keeps `SHARE` of the margin over chance.

    None if that cannot be said: no dense model, no chance, or a dense model no better than chance.
    """
    if curve.dense is None or task not in curve.dense.answers:
        return None
    whole = curve.dense.answers[task]
    if whole.chance is None or whole.measures[ACCURACY].value <= whole.chance:
        return None
    floor = whole.chance + SHARE * (whole.measures[ACCURACY].value - whole.chance)
    good = curve.dense
    for entry in curve.entries:
        answers = entry.answers.get(task)
        if answers is None or ACCURACY not in answers.measures:
            continue
        if answers.measures[ACCURACY].value < floor:
            break
        good = entry
    return good


def sentences(curves: Sequence[Curve], tasks: Sequence[Task]) -> list[str]:
    """The study in one paragraph: models, dense accuracy, chance, and how far each curve holds."""
    said = [_models(curves)]
    heads = [task for task in tasks if task.parent is None]
    grounds = {curve.first.ground: curve for curve in curves if curve.dense is not None}
    several = len({curve.first.model for curve in curves}) > 1
    pairs = [(task, curve) for task in heads for curve in grounds.values()]
    for task, curve in pairs[:MOST]:
        said += _whole(task, curve, several)
    far = [
        (task, curve)
        for task in heads
        for curve in curves
        if curve.first.num_dropped or len(curve.entries) > 1
    ]
    kept = [sentence for task, curve in far[:MOST] if (sentence := _kept(task, curve))]
    if kept:
        said += kept
        said.append(
            f'"Keeps" means: at every point measured up to there, at least {SHARE:.0%} of the '
            "dense model's margin over chance. These are point estimates for this sample of "
            "questions; their error bars are in the figures."
        )
    if len(pairs) > MOST or len(far) > MOST:
        said.append("The table below has the other curves.")
    return said


def _models(curves: Sequence[Curve]) -> str:
    layers = {curve.first.model: curve.first.num_layers for curve in curves}
    points = sum(len(curve.entries) for curve in curves)
    names = [f"{name} ({count} layers)" for name, count in layers.items()]
    return (
        f"{_number(points, 'point')} on {_number(len(curves), 'curve')} of {_listed(names)}, "
        "with whole layers dropped and nothing else changed."
        if all(curve.first.heal == "none" for curve in curves)
        else f"{_number(points, 'point')} on {_number(len(curves), 'curve')} of {_listed(names)}."
    )


def _whole(task: Task, curve: Curve, several: bool) -> list[str]:
    assert curve.dense is not None
    answers = curve.dense.answers.get(task.name)
    if answers is None or ACCURACY not in answers.measures:
        return []
    value = answers.measures[ACCURACY]
    who = curve.dense.model if several else "The dense model"
    said = (
        f"{who} answers {accuracy(value)} of {answers.num_samples:,} questions "
        f"({task.name}) correctly"
    )
    if answers.chance is None:
        return [f"{said}."]
    said = f"{said}; guessing evenly would give {percent(answers.chance)}."
    margin = value.value - answers.chance
    if margin <= 0:
        return [said, "It is no better than guessing here, so its curve says nothing."]
    if value.stderr is not None and margin < 2 * value.stderr:
        return [said, "That is within two standard errors of guessing: the curve says little."]
    return [said]


def _kept(task: Task, curve: Curve) -> str:
    good = last_good(curve, task.name)
    if good is None:
        return ""
    if good.num_dropped == 0:
        return f"On {task.name}, {curve.label} does not keep its accuracy at any point measured."
    dropped = f"{percent(good.fraction)} of the layers dropped ({good.num_dropped} of "
    value = good.answers[task.name].measures[ACCURACY]
    return (
        f"On {task.name}, {curve.label} keeps its accuracy up to {dropped}{good.num_layers}: "
        f"{ranges(good.dropped)}), with {accuracy(value)} correct."
    )


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
