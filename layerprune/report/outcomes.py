"""What a cut costs in what a model is asked: accuracy of each task and its subjects, and loss."""

from collections.abc import Callable, Sequence
from os.path import commonprefix

from layerprune.report.curves import Curve, Task
from layerprune.report.figure import Figure, few, limited, make_figure, slug
from layerprune.report.lines import (
    GAP,
    MOST_ERRORS,
    PANEL,
    accuracy_chart,
    errors_shown,
    look_of,
    loss_chart,
    pickers,
    subjects_chart,
)
from layerprune.report.series import Datum, accuracy_data, errors_of, loss_data, num_curves, points

MOST_MARKS = 2_000
"""Points in the small panels of a group's subjects: more of them nobody could tell apart."""


def accuracy_figure(curves: Sequence[Curve], task: Task) -> Figure:
    """The accuracy on a task, a line a curve."""
    look = look_of(curves)
    data = accuracy_data(curves, task.name)
    said = _joined(f"{task.measure} on {task.size}", _errors(data))
    # On the picture, the dashed line of a single model has its name beside it.
    lines = [look.dashes(data)] if look.several_models else []
    return make_figure(
        f"accuracy-{slug(task.name)}",
        f"Accuracy on {task.name}",
        f"{_joined(said, look.dashes(data))}.",
        _spoken(f"Accuracy on {task.name}, {said}.", data, _percent),
        accuracy_chart(data, look, task, [said, *lines]),
        data,
        params=[errors_shown(data), *pickers(look)],
    )


def subjects_figure(curves: Sequence[Curve], task: Task, every: dict[str, Task]) -> Figure:
    """The accuracy on each subject of a group of tasks, a panel a subject."""
    look = look_of(curves)
    # What all subjects' names begin with would leave no room for the rest.
    start = commonprefix(task.children)  # noqa: RUF071 - names, not paths
    start = start[: start.rfind("_") + 1]
    data = []
    drawn = few(curves, MOST_MARKS // len(task.children))
    for child in task.children:
        short = child.removeprefix(start)
        data += accuracy_data(drawn, child, f"{short} ({every[child].num_samples[-1]:,})")
    some = f"{len(drawn)} of {len(curves)} curves, all are in curves.csv; "
    said = (
        f"{some if len(drawn) < len(curves) else ''}{task.measure}, number of questions in brackets"
    )
    said = _joined(said, _errors(data))
    columns = 3 if len(task.children) <= 6 else 4
    return make_figure(
        f"subjects-{slug(task.name)}",
        f"Accuracy on each subject of {task.name}",
        f"{_joined(said, look.dashes(data))}. Single points of few questions say little.",
        _spoken(f"Accuracy on each subject of {task.name}.", data, _percent),
        subjects_chart(data, look, task, [said, look.dashes(data)], columns),
        data,
        panel=PANEL + GAP,
        params=[errors_shown(data), *pickers(look)],
    )


def loss_figure(curves: Sequence[Curve]) -> Figure:
    """The held-out loss, a line a curve."""
    look = look_of(curves)
    data = loss_data(curves)
    sizes = sorted({datum["num_samples"] for datum in points(data)})
    said = _joined(f"{' or '.join(map(str, sizes))} sequences of held-out text", _errors(data))
    return make_figure(
        "loss",
        "Held-out loss",
        f"Cross-entropy per token divided by ln V, on {said}. At 1 the model is no better than "
        f"guessing evenly among all tokens; {look.dashes(data)}.",
        _spoken(f"Loss over ln V on {said}.", data, "{:.3f}".format),
        loss_chart(data, look, [f"cross-entropy / ln V on {said}; 1 is guessing evenly"]),
        data,
        params=[errors_shown(data), *pickers(look)],
    )


def _errors(data: Sequence[Datum]) -> str:
    said = errors_of(data)
    if said and num_curves(data) > MOST_ERRORS:
        return f"{said}, drawn for up to {MOST_ERRORS} curves at once"
    return said


def _joined(*said: str) -> str:
    return "; ".join(each for each in said if each)


def _spoken(start: str, data: Sequence[Datum], form: Callable[[float], str]) -> str:
    """The numbers of a figure with lines, as one text."""
    said = []
    for datum in data:
        panel = f"{datum['panel']}, " if datum.get("panel") else ""
        if datum["kind"] == "point":
            said.append(
                f"{panel}{datum['curve']}, {datum['layers_dropped']} layers dropped: "
                f"{form(datum['value'])}"
            )
        elif datum["label"]:
            said.append(f"{panel}{datum['label']}")
    return f"{start} {limited(said)}."


def _percent(value: float) -> str:
    return f"{value:.1%}"
