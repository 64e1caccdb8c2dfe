"""Every figure of a study, in the order a reader wants them."""

from collections.abc import Iterable, Iterator, Sequence
from os.path import commonprefix

from layerprune.report.cost import cost_data, cost_figure
from layerprune.report.curves import JOINT, Curve, Task
from layerprune.report.distances import distances_figure
from layerprune.report.figure import (
    Figure,
    errors_said,
    few,
    joined,
    make_figure,
    percent,
    slug,
    spoken_of,
)
from layerprune.report.fit import Fit
from layerprune.report.frontier import frontier_figure
from layerprune.report.layers import layers_figure
from layerprune.report.lines import (
    GAP,
    PANEL,
    accuracy_chart,
    errors_shown,
    look_of,
    loss_chart,
    pickers,
    subjects_chart,
)
from layerprune.report.nearest import nearest_figure
from layerprune.report.series import accuracy_data, loss_data, points
from layerprune.report.size import size_data, size_figure
from layerprune.report.speed import speed_data, speed_figure
from layerprune.report.training import (
    trained,
    training_figure,
)
from layerprune.similarity.profile import Profile

MOST_MARKS = 2_000
"""Points in the small panels of a group's subjects: more of them nobody could tell apart."""


def make_figures(
    curves: Sequence[Curve],
    tasks: Sequence[Task],
    profiles: Iterable[tuple[str, Profile]],
    fits: Iterable[Fit] = (),
) -> Iterator[Figure]:
    """The figures of a study; `profiles` are its matrices of distances, each with its model."""
    look = look_of(curves)
    shown = [fit for fit in fits if fit.frontier]
    for fit in shown:
        yield frontier_figure(fit, several=len(shown) > 1)
    for task in (task for task in tasks if task.parent is None):
        data = accuracy_data(curves, task.name)
        said = joined(f"{task.measure} on {task.size}", errors_said(data))
        # On the picture, the dashed line of a single model has its name beside it.
        lines = [look.dashes(data)] if look.several_models else []
        yield make_figure(
            f"accuracy-{slug(task.name)}",
            f"Accuracy on {task.name}",
            f"{joined(said, look.dashes(data))}.",
            spoken_of(f"Accuracy on {task.name}, {said}.", data, percent),
            accuracy_chart(data, look, task, [said, *lines]),
            data,
            params=[errors_shown(data), *pickers(look)],
        )
    for task in (task for task in tasks if task.children):
        yield _subjects(curves, task, {each.name: each for each in tasks})
    data = loss_data(curves)
    sizes = sorted({datum["num_samples"] for datum in points(data)})
    said = joined(f"{' or '.join(map(str, sizes))} sequences of held-out text", errors_said(data))
    yield make_figure(
        "loss",
        "Held-out loss",
        f"Cross-entropy per token divided by ln V, on {said}. At 1 the model is no better than "
        f"guessing evenly among all tokens; {look.dashes(data)}.",
        spoken_of(f"Loss over ln V on {said}.", data, "{:.3f}".format),
        loss_chart(data, look, [f"cross-entropy / ln V on {said}; 1 is guessing evenly"]),
        data,
        params=[errors_shown(data), *pickers(look)],
    )
    if trained(curves):
        yield training_figure(curves)
    if costs := cost_data(curves):
        yield cost_figure(curves, costs)
    if sizes := size_data(curves):
        yield size_figure(sizes)
    if speeds := speed_data(curves):
        yield speed_figure(curves, speeds)
    # In the order of their curves, and so mostly in their colours.
    order = {entry.profile: at for at, curve in enumerate(curves) for entry in curve.entries}
    profiles = sorted(profiles, key=lambda each: order.get(each[1].key, len(order)))
    metrics = dict.fromkeys(str(profile.depends_on["metric"]) for _, profile in profiles)
    several = len(metrics) > 1
    names_of: dict[str, str] = {}
    for metric in metrics:
        alike = [each for each in profiles if each[1].depends_on["metric"] == metric]
        names = _names(curves, alike)
        yield nearest_figure(metric, alike, names, several)
        names_of |= {profile.key: name for name, (_, profile) in zip(names, alike, strict=True)}
    for model, profile in profiles:
        yield distances_figure(model, names_of[profile.key], profile, several)
    if any(entry.dropped for curve in curves for entry in curve.entries):
        yield layers_figure(curves)


def _subjects(curves: Sequence[Curve], task: Task, every: dict[str, Task]) -> Figure:
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
    said = joined(said, errors_said(data))
    columns = 3 if len(task.children) <= 6 else 4
    return make_figure(
        f"subjects-{slug(task.name)}",
        f"Accuracy on each subject of {task.name}",
        f"{joined(said, look.dashes(data))}. Single points of few questions say little.",
        spoken_of(f"Accuracy on each subject of {task.name}.", data, percent),
        subjects_chart(data, look, task, [said, look.dashes(data)], columns),
        data,
        panel=PANEL + GAP,
        params=[errors_shown(data), *pickers(look)],
    )


def _names(curves: Sequence[Curve], profiles: Sequence[tuple[str, Profile]]) -> list[str]:
    """A name for each matrix by one metric: its model's; of several, with its first curve's."""
    models = [model for model, _ in profiles]
    planned = {entry.profile: curve for curve in reversed(curves) for entry in curve.entries}
    return [
        model if models.count(model) == 1 else f"{model}{JOINT}{planned[profile.key].short}"
        for model, profile in profiles
    ]
