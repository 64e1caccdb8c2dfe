"""All figures of a study, in the order in which a reader wants them."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from layerprune.analysis.curves import JOINT, Curve, Task
from layerprune.prune.distance_matrix import DistanceMatrix
from layerprune.report.figures.accuracy_figures import accuracy_figure, loss_figure, subjects_figure
from layerprune.report.figures.cost_figures import size_figure, speed_figure, training_cost_figure
from layerprune.report.figures.distance_figures import best_blocks_figure, heat_map_figure
from layerprune.report.figures.dropped_layers import dropped_layers_figure
from layerprune.report.figures.figure import Figure
from layerprune.report.figures.frontier_figure import frontier_figure
from layerprune.report.figures.healing_figure import healing_figure, training_figure
from layerprune.report.figures.setting_figure import setting_figure
from layerprune.report.tables.search_result import SearchReport


def make_figures(
    curves: Sequence[Curve],
    tasks: Sequence[Task],
    profiles: Iterable[tuple[str, DistanceMatrix]],
    searches: Iterable[SearchReport] = (),
) -> Iterator[Figure]:
    """Yield the figures of a study; `profiles` are distance matrices, each with its model."""
    frontiers = [search for search in searches if search.frontier]
    for search in frontiers:
        yield frontier_figure(search, several=len(frontiers) > 1)
    for task in tasks:
        if task.parent is None:
            yield accuracy_figure(curves, task)
            if (by_setting := setting_figure(curves, task)) is not None:
                yield by_setting
    for task in tasks:
        if task.children:
            yield subjects_figure(curves, task, {task.name: task for task in tasks})
    yield loss_figure(curves)
    for make in (healing_figure, training_figure, training_cost_figure, size_figure, speed_figure):
        if (figure := make(curves)) is not None:
            yield figure
    yield from _distance_figures(curves, profiles)
    if (layers := dropped_layers_figure(curves)) is not None:
        yield layers


def _distance_figures(
    curves: Sequence[Curve], profiles: Iterable[tuple[str, DistanceMatrix]]
) -> Iterator[Figure]:
    points = [(curve, point) for curve in curves for point in curve.points]
    first = {point.plan.profile: curve for curve, point in reversed(points)}
    # In the order of their curves, and so mostly in their colours.
    order = {point.plan.profile: index for index, (_, point) in enumerate(points)}
    profiles = sorted(profiles, key=lambda pair: order.get(pair[1].key, len(points)))
    by_metric: dict[str, list[tuple[str, DistanceMatrix]]] = defaultdict(list)
    for model, profile in profiles:
        by_metric[str(profile.depends_on["metric"])].append((model, profile))
    several = len(by_metric) > 1
    names: dict[str, str] = {}
    for metric, matrices in by_metric.items():
        models = [model for model, _ in matrices]
        for model, profile in matrices:
            # A model with several matrices needs the name of a curve too.
            curve = f"{JOINT}{first[profile.key].short}" if models.count(model) > 1 else ""
            names[profile.key] = f"{model}{curve}"
        lines = [names[profile.key] for _, profile in matrices]
        yield best_blocks_figure(metric, matrices, lines, several)
    for model, profile in profiles:
        yield heat_map_figure(model, names[profile.key], profile, several)
