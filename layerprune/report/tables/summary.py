"""The findings of a study in sentences, and as a table at a glance."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from layerprune.analysis.curves import GIVEN, UNHEALED, Curve, Task
from layerprune.record.point import Point, layer_ranges
from layerprune.record.scores import Score
from layerprune.report.tables.points import in_percent
from layerprune.report.tables.text_table import TextTable, table_of

KEPT = 0.9
"""The part of the dense model's margin over chance that a pruned model must keep to count as good.
"""

MOST = 3
"""Findings told in sentences; more of them are easier to read as a table."""

MEANING = (
    f'"Keeps" means: at every point measured up to there, at least {KEPT:.0%} of the dense '
    "model's margin over chance. These are point estimates for this sample of questions; "
    "the figures show their error bars."
)


@dataclass(frozen=True)
class Finding:
    """The depth up to which one curve keeps its accuracy on one task."""

    task: str
    curve: Curve
    dense: Score | None
    """The dense model's answers."""
    last_good: Point | None
    """The point up to which the curve keeps its accuracy; None where that is undefined."""


def findings(curves: Sequence[Curve], tasks: Sequence[Task]) -> list[Finding]:
    """Return a finding for each curve on each task that is not part of another."""
    return [
        Finding(task.name, curve, _dense(curve, task.name), last_good(curve, task.name))
        for task in tasks
        if task.parent is None
        for curve in curves
        if any(task.name in point.task_scores for point in curve.points)
    ]


def last_good(curve: Curve, task: str) -> Point | None:
    """Return the last point of a curve's first points that keep `KEPT` of the margin over chance.

    None without a dense model above chance, and for layers that the user named: they are no curve.
    """
    dense = _dense(curve, task)
    if curve.dense is None or dense is None or dense.chance_accuracy is None:
        return None
    margin = curve.dense.correct_share(task) - dense.chance_accuracy
    if curve.first.plan.strategy == GIVEN or margin <= 0:
        return None
    good = curve.dense
    for point in curve.scored(task):
        if point.correct_share(task) < dense.chance_accuracy + KEPT * margin:
            break
        good = point
    return good


def glance_table(findings: Sequence[Finding]) -> TextTable:
    """Return the findings as a table."""
    title = "Largest fraction at which each curve keeps its accuracy"
    return table_of(title, 5, map(_cells, findings))


def sentences(curves: Sequence[Curve], findings: Sequence[Finding]) -> list[str]:
    """Return a paragraph: models, dense accuracy, chance, and the depth of each curve."""
    models = _models(curves)
    if len(findings) > MOST:
        return [models, f"The table below shows how far each curve keeps its accuracy. {MEANING}"]
    several = len({curve.first.model.name for curve in curves}) > 1
    by_benchmark = {
        (finding.task, finding.curve.first.comparison_key): finding for finding in findings
    }
    dense = [line for finding in by_benchmark.values() for line in _dense_lines(finding, several)]
    kept = [_kept_line(finding) for finding in findings if finding.last_good is not None]
    return [models, *dense, *kept, *([MEANING] if kept else [])]


def _cells(finding: Finding) -> Iterator[tuple[str, str]]:
    score, good = finding.dense, finding.last_good
    dense, chance, kept = "", "", "undefined"
    if score is not None and score.correct_share is not None:
        dense = f"{in_percent(score.correct_share)}%"
        chance = "" if score.chance_accuracy is None else f"{score.chance_accuracy:.1%}"
    if good is not None:
        kept = f"{good.plan.fraction:.1%} ({good.num_dropped} layers)"
    yield "task", finding.task
    yield "curve", finding.curve.label
    yield "dense model", dense
    yield "chance", chance
    yield "keeps its accuracy up to", kept


def _dense(curve: Curve, task: str) -> Score | None:
    score = None if curve.dense is None else curve.dense.task_scores.get(task)
    return score if score is not None and score.accuracy is not None else None


def _models(curves: Sequence[Curve]) -> str:
    layers = {curve.first.model.name: curve.first.model.num_layers for curve in curves}
    num_points = sum(len(curve.points) for curve in curves)
    models = _listed(f"{name} ({count} layers)" for name, count in layers.items())
    points = f"{_counted(num_points, 'point')} on {_counted(len(curves), 'curve')}"
    healed = [point for curve in curves for point in curve.points if point.recipe != UNHEALED]
    if healed:
        recipes = _listed(dict.fromkeys(point.recipe for point in healed))
        return f"{points} of {models}, {len(healed):,} of the points healed ({recipes})."
    return f"{points} of {models}, without healing."


def _dense_lines(finding: Finding, several: bool) -> list[str]:
    score = finding.dense
    if score is None or score.correct_share is None:
        return []
    value, chance = score.correct_share, score.chance_accuracy
    model = finding.curve.first.model.name if several else "The dense model"
    line = (
        f"{model} answers {in_percent(value)}% of {_counted(score.num_samples, 'question')} "
        f"({finding.task}) correctly{f'; chance is {chance:.1%}' if chance else ''}."
    )
    if chance is not None and value.value <= chance:
        return [line, "It is not above chance here, so its curve shows nothing."]
    if chance is not None and value.stderr is not None and value.value - chance < 2 * value.stderr:
        return [line, "That is within two standard errors of chance: the curve shows little."]
    return [line]


def _kept_line(finding: Finding) -> str:
    good, curve = finding.last_good, finding.curve
    assert good is not None
    if good.num_dropped == 0:
        if len(curve.points) == 1 and not curve.first.plan.dropped:
            return f"{curve.label} has no pruned point yet."
        return f"On {finding.task}, {curve.label} does not keep its accuracy at any point measured."
    value = good.accuracy(finding.task)
    assert value is not None
    return (
        f"On {finding.task}, {curve.label} keeps its accuracy up to "
        f"{good.plan.fraction:.1%} of the layers removed ({good.num_dropped} of "
        f"{good.model.num_layers}: {layer_ranges(good.plan.dropped)}), with {in_percent(value)}% "
        "correct."
    )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
