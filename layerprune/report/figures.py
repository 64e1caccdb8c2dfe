"""Every figure of a study, in the order a reader wants them."""

from collections.abc import Iterable, Iterator, Sequence

from layerprune.report.cost import cost_data, cost_figure
from layerprune.report.curves import JOINT, Curve, Task
from layerprune.report.distances import distances_figure
from layerprune.report.figure import (
    Figure,
)
from layerprune.report.fit import Fit
from layerprune.report.frontier import frontier_figure
from layerprune.report.layers import layers_figure
from layerprune.report.nearest import nearest_figure
from layerprune.report.outcomes import accuracy_figure, loss_figure, subjects_figure
from layerprune.report.size import size_data, size_figure
from layerprune.report.speed import speed_data, speed_figure
from layerprune.report.training import trained, training_figure
from layerprune.similarity.profile import Profile


def make_figures(
    curves: Sequence[Curve],
    tasks: Sequence[Task],
    profiles: Iterable[tuple[str, Profile]],
    fits: Iterable[Fit] = (),
) -> Iterator[Figure]:
    """The figures of a study; `profiles` are its matrices of distances, each with its model."""
    shown = [fit for fit in fits if fit.frontier]
    for fit in shown:
        yield frontier_figure(fit, several=len(shown) > 1)
    for task in (task for task in tasks if task.parent is None):
        yield accuracy_figure(curves, task)
    for task in (task for task in tasks if task.children):
        yield subjects_figure(curves, task, {each.name: each for each in tasks})
    yield loss_figure(curves)
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


def _names(curves: Sequence[Curve], profiles: Sequence[tuple[str, Profile]]) -> list[str]:
    """A name for each matrix by one metric: its model's; of several, with its first curve's."""
    models = [model for model, _ in profiles]
    planned = {entry.profile: curve for curve in reversed(curves) for entry in curve.entries}
    return [
        model if models.count(model) == 1 else f"{model}{JOINT}{planned[profile.key].short}"
        for model, profile in profiles
    ]
