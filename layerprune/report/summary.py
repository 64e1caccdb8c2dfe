"""What a study says, in a few sentences made from its numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from layerprune.report.curves import NAMED, UNHEALED, Curve, Task
from layerprune.report.entry import Answers, Entry, Value, ranges

SHARE = 0.9
"""Of the dense model's margin over chance: what a pruned model must keep to count as good."""

MOST = 3
"""Curves that are told about in sentences; more of them are easier to read as a table."""

MEANING = (
    f'"Keeps" means: at every point measured up to there, at least {SHARE:.0%} of the dense '
    "model's margin over chance. These are point estimates for this sample of questions; "
    "the figures show their error bars."
)


@dataclass(frozen=True)
class Finding:
    """How far one curve holds on one task."""

    task: str
    curve: Curve
    dense: Answers | None
    """Of the whole model."""
    last_good: Entry | None
    """The point up to which the curve keeps its accuracy, if that can be said."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The finding as a row under `GLANCE`."""
        whole, chance, kept = "", "", "cannot be said"
        if self.dense is not None and self.dense.accuracy is not None:
            whole = accuracy(self.dense.accuracy)
            chance = "" if self.dense.chance is None else percent(self.dense.chance)
        if self.last_good is not None:
            kept = f"{percent(self.last_good.fraction)} ({self.last_good.num_dropped} layers)"
        return self.task, self.curve.label, whole, chance, kept


GLANCE = ("task", "curve", "dense model", "guessing evenly", "keeps its accuracy up to")


def percent(value: float) -> str:
    """A share as `45.0%`."""
    return f"{value:.1%}"


def accuracy(value: Value) -> str:
    """A share and its standard error as `45.0 ± 5.0%`."""
    if value.stderr is None:
        return percent(value.value)
    return f"{100 * value.value:.1f} ± {100 * value.stderr:.1f}%"


def findings(curves: Sequence[Curve], tasks: Sequence[Task]) -> list[Finding]:
    """One finding for each curve on each task that is not part of another."""
    return [
        Finding(task.name, curve, _dense(curve, task.name), last_good(curve, task.name))
        for task in tasks
        if task.parent is None
        for curve in curves
        if any(task.name in entry.answers for entry in curve.entries)
    ]


def last_good(curve: Curve, task: str) -> Entry | None:
    """The point up to which every point of a curve keeps `SHARE` of the margin over chance.

    None if that cannot be said: no dense model, no chance, a dense model no better than chance, or
    layers that were named one by one.
    """
    whole = _dense(curve, task)
    if curve.dense is None or whole is None or whole.chance is None:
        return None
    if curve.first.strategy == NAMED:
        return None  # its points are not steps of one way
    margin = curve.dense.right(task) - whole.chance
    if margin <= 0:
        return None
    good = curve.dense
    for entry in curve.entries:
        if entry.accuracy(task) is None:
            continue
        if entry.right(task) < whole.chance + SHARE * margin:
            break
        good = entry
    return good


def sentences(curves: Sequence[Curve], found: Sequence[Finding]) -> list[str]:
    """The study in one paragraph: models, dense accuracy, chance, and how far each curve holds."""
    said = [_models(curves)]
    if len(found) > MOST:
        return [*said, f"The table below says how far each curve holds. {MEANING}"]
    several = len({curve.first.model for curve in curves}) > 1
    wholes = {(finding.task, finding.curve.first.ground): finding for finding in found}
    for finding in wholes.values():
        said += _whole(finding, several)
    kept = [_kept(finding) for finding in found if finding.last_good is not None]
    return [*said, *kept, MEANING] if kept else said


def _dense(curve: Curve, task: str) -> Answers | None:
    answers = None if curve.dense is None else curve.dense.answers.get(task)
    return answers if answers is not None and answers.accuracy is not None else None


def _models(curves: Sequence[Curve]) -> str:
    layers = {curve.first.model: curve.first.num_layers for curve in curves}
    num_points = sum(len(curve.entries) for curve in curves)
    names = [f"{name} ({count} layers)" for name, count in layers.items()]
    how = ", with whole layers dropped and nothing else changed"
    what = f"{_counted(num_points, 'point')} on {_counted(len(curves), 'curve')}"
    healed = [entry for curve in curves for entry in curve.entries if entry.heal != UNHEALED]
    if healed:
        recipes = _listed(dict.fromkeys(entry.heal for entry in healed))
        how = f", {len(healed):,} of the points healed after the cut ({recipes})"
    return f"{what} of {_listed(names)}{how}."


def _whole(finding: Finding, several: bool) -> list[str]:
    answers = finding.dense
    if answers is None or answers.accuracy is None:
        return []
    value = answers.accuracy
    who = finding.curve.first.model if several else "The dense model"
    said = (
        f"{who} answers {accuracy(value)} of {_counted(answers.num_samples, 'question')} "
        f"({finding.task}) correctly"
    )
    if answers.chance is None:
        return [f"{said}."]
    if answers.chance:
        said += f"; guessing evenly would give {percent(answers.chance)}"
    said += "."
    margin = value.value - answers.chance
    if margin <= 0:
        return [said, "It is no better than guessing here, so its curve says nothing."]
    if value.stderr is not None and margin < 2 * value.stderr:
        return [said, "That is within two standard errors of guessing: the curve says little."]
    return [said]


def _kept(finding: Finding) -> str:
    good, curve = finding.last_good, finding.curve
    assert good is not None
    kept = good.accuracy(finding.task)
    assert kept is not None
    if good.num_dropped == 0:
        if len(curve.entries) == 1 and not curve.first.dropped:
            return f"No layer is dropped yet on {curve.label}."
        return f"On {finding.task}, {curve.label} does not keep its accuracy at any point measured."
    return (
        f"On {finding.task}, {curve.label} keeps its accuracy up to {percent(good.fraction)} of "
        f"the layers dropped ({good.num_dropped} of {good.num_layers}: {ranges(good.dropped)}), "
        f"with {accuracy(kept)} correct."
    )


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
