"""Every figure of a study, in the order a reader wants them."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import Any

import altair as alt

from layerprune.record.point import content_hash
from layerprune.report import style
from layerprune.report.cost import WIDTH as COST_WIDTH
from layerprune.report.cost import cost_chart, cost_data
from layerprune.report.curves import JOINT, Curve, Task
from layerprune.report.distances import SIDE, distance_chart, distance_data
from layerprune.report.entry import ranges
from layerprune.report.fit import Fit
from layerprune.report.frontier import frontier_chart
from layerprune.report.layers import WIDTH, distinct, dropped_data, dropped_spec
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
from layerprune.report.nearest import nearest_chart, nearest_data
from layerprune.report.render import svg_of
from layerprune.report.scales import scale_of
from layerprune.report.series import Datum, accuracy_data, errors_of, loss_data, num_curves, points
from layerprune.report.size import size_chart, size_data
from layerprune.report.sped import timed
from layerprune.report.speed import speed_chart, speed_data
from layerprune.report.statistics import LEVEL
from layerprune.report.training import PANEL as TRAINING_PANEL
from layerprune.report.training import thinned, trained, training_chart, training_data
from layerprune.similarity.profile import Profile

VEGA_LITE = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
"""The version that altair writes, as vl-convert names it: `6.4`."""

MOST_NUMBERS = 240
"""Numbers in the text for those who do not see a figure; the rest is in `curves.csv`."""

HEALING = "healing"
"""The figure's name, and that of its section in the page."""

SPEED = "speed"
"""Likewise."""

MOST_LINES = 120
"""Points whose healing is drawn, likewise."""

MOST_PLANS = 200
"""Rows of the picture of the layers that each plan drops."""

MOST_MARKS = 2_000
"""Points in the small panels of a group's subjects: more of them nobody could tell apart."""


@dataclass(frozen=True)
class Figure:
    """A picture, and what is said of it."""

    name: str
    """Of its files, without suffix."""
    title: str
    caption: str
    alt: str
    """The numbers, for those who do not see the picture."""
    spec: dict[str, Any]
    """In Vega-Lite."""
    panel: int
    """Pixels from one of its panels to the next; 0 if it has one panel only."""
    facts: dict[str, str] = field(default_factory=dict)
    """The model and the metric of a figure that is about one only."""

    @property
    def data(self) -> list[Datum]:
        """The numbers that it is drawn from."""
        values: list[Datum] = self.spec["data"]["values"]
        return values

    def csv(self) -> str:
        """Its data as CSV: a column for each field of any datum, nothing where one has none."""
        out = io.StringIO()
        names = list(dict.fromkeys(name for datum in self.data for name in datum))
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.data)
        return out.getvalue()

    def svg(self) -> str:
        """The picture as SVG."""
        return svg_of(self.spec, VEGA_LITE)


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
        yield _frontier(fit, several=len(shown) > 1)
    for task in (task for task in tasks if task.parent is None):
        data = accuracy_data(curves, task.name)
        said = _joined(f"{task.measure} on {task.size}", _errors(data))
        # On the picture, the dashed line of a single model has its name beside it.
        lines = [look.dashes(data)] if look.several_models else []
        yield _figure(
            f"accuracy-{_slug(task.name)}",
            f"Accuracy on {task.name}",
            f"{_joined(said, look.dashes(data))}.",
            _spoken(f"Accuracy on {task.name}, {said}.", data, _percent),
            accuracy_chart(data, look, task, [said, *lines]),
            data,
            params=[errors_shown(data), *pickers(look)],
        )
    for task in (task for task in tasks if task.children):
        yield _subjects(curves, task, {each.name: each for each in tasks})
    data = loss_data(curves)
    sizes = sorted({datum["num_samples"] for datum in points(data)})
    said = _joined(f"{' or '.join(map(str, sizes))} sequences of held-out text", _errors(data))
    yield _figure(
        "loss",
        "Held-out loss",
        f"Cross-entropy per token divided by ln V, on {said}. At 1 the model is no better than "
        f"guessing evenly among all tokens; {look.dashes(data)}.",
        _spoken(f"Loss over ln V on {said}.", data, "{:.3f}".format),
        loss_chart(data, look, [f"cross-entropy / ln V on {said}; 1 is guessing evenly"]),
        data,
        params=[errors_shown(data), *pickers(look)],
    )
    if trained(curves):
        yield _training(curves)
    if costs := cost_data(curves):
        yield _cost(curves, costs)
    if sizes := size_data(curves):
        yield _size(sizes)
    if speeds := speed_data(curves):
        yield _speed(curves, speeds)
    # In the order of their curves, and so mostly in their colours.
    order = {entry.profile: at for at, curve in enumerate(curves) for entry in curve.entries}
    profiles = sorted(profiles, key=lambda each: order.get(each[1].key, len(order)))
    metrics = dict.fromkeys(str(profile.depends_on["metric"]) for _, profile in profiles)
    several = len(metrics) > 1
    names_of: dict[str, str] = {}
    for metric in metrics:
        alike = [each for each in profiles if each[1].depends_on["metric"] == metric]
        names = _names(curves, alike)
        yield _nearest(metric, alike, names, several)
        names_of |= {profile.key: name for name, (_, profile) in zip(names, alike, strict=True)}
    for model, profile in profiles:
        yield _distances(model, names_of[profile.key], profile, several)
    if any(entry.dropped for curve in curves for entry in curve.entries):
        yield _layers(curves)


def _frontier(fit: Fit, several: bool) -> Figure:
    data = fit.frontier
    title = f"What smaller models keep{f', {fit.study}' if several else ''}"
    keep = next(datum["kept"] for datum in data if datum["kind"] == "keep")
    said = (
        f"bars: {LEVEL:.0%} intervals by paired questions; dashed: the budget, fit.keep={keep:g}; "
        "ringed: the model chosen"
    )
    spoken = [
        f"{datum['panel']} {datum['value']:.4g}, {datum['layers_dropped']} layers dropped, "
        f"{datum['what']}{', chosen' if datum['chosen'] else ''}: keeps {datum['kept']:.1%}"
        for datum in data
        if datum["kind"] == "point"
    ]
    return _figure(
        f"frontier-{_slug(fit.study)}" if several else "frontier",
        title,
        f"The share of the dense model's margin over chance that stays; {said}.",
        f"{title}; {said}. {_limited(spoken)}.",
        frontier_chart(data, title, [said]),
        data,
        panel=COST_WIDTH + GAP,
    )


def _subjects(curves: Sequence[Curve], task: Task, every: dict[str, Task]) -> Figure:
    look = look_of(curves)
    # What all subjects' names begin with would leave no room for the rest.
    start = commonprefix(task.children)  # noqa: RUF071 - names, not paths
    start = start[: start.rfind("_") + 1]
    data = []
    drawn = _few(curves, MOST_MARKS // len(task.children))
    for child in task.children:
        short = child.removeprefix(start)
        data += accuracy_data(drawn, child, f"{short} ({every[child].num_samples[-1]:,})")
    some = f"{len(drawn)} of {len(curves)} curves, all are in curves.csv; "
    said = (
        f"{some if len(drawn) < len(curves) else ''}{task.measure}, number of questions in brackets"
    )
    said = _joined(said, _errors(data))
    columns = 3 if len(task.children) <= 6 else 4
    return _figure(
        f"subjects-{_slug(task.name)}",
        f"Accuracy on each subject of {task.name}",
        f"{_joined(said, look.dashes(data))}. Single points of few questions say little.",
        _spoken(f"Accuracy on each subject of {task.name}.", data, _percent),
        subjects_chart(data, look, task, [said, look.dashes(data)], columns),
        data,
        panel=PANEL + GAP,
        params=[errors_shown(data), *pickers(look)],
    )


def _few(curves: Sequence[Curve], num_points: int) -> list[Curve]:
    """The curves, or so many that they have `num_points` at most: first one of every colour."""
    seen: Counter[str] = Counter()
    ranked = []
    for at, curve in enumerate(curves):
        ranked.append((seen[curve.hue], at))
        seen[curve.hue] += 1
    chosen: list[int] = []
    for _, at in sorted(ranked):
        num_points -= len(curves[at].entries)
        if num_points < 0 and chosen:
            break
        chosen.append(at)
    return [curves[at] for at in sorted(chosen)]


def _training(curves: Sequence[Curve]) -> Figure:
    look = look_of(curves)
    healed = [curve for curve in curves if trained([curve])]
    drawn = _few(healed, MOST_LINES)
    data = training_data(drawn)
    recipes = ", ".join(dict.fromkeys(entry.heal for _, entry in trained(curves)))
    over = max(datum["over"] for datum in data if datum["kind"] == "training")
    means = f" (means over up to {over} steps)" if over > 1 else ""
    said = f"points: held-out loss, step 0 before training; light lines: what is trained on{means}"
    if len(drawn) < len(healed):
        said = f"{len(drawn)} of {len(healed)} healed curves; {said}"
    dashes = look.dashes(data)
    panels = len({datum["panel"] for datum in data})
    lines = [dashes] if dashes and (panels > 1 or look.several_models) else []
    return _figure(
        HEALING,
        "Healing",
        f"Loss in nats per token against optimiser steps of {recipes}; {said}"
        f"{'; ' if dashes else ''}{dashes}.",
        f"Losses in nats per token during healing by {recipes}. {_limited(_losses(curves))}.",
        training_chart(data, look, f"Loss during healing: {recipes}", [said, *lines], 3),
        data,
        panel=TRAINING_PANEL + GAP if panels > 1 else 0,
    )


def _cost(curves: Sequence[Curve], data: list[Datum]) -> Figure:
    title = "Cost of a training step"
    said = "median over steps; memory: the most that the process, or its GPU, held meanwhile"
    spoken = [
        f"{datum['panel']}, {datum['curve']}, {datum['layers_dropped']} layers dropped: "
        f"{datum['value']:.3g}"
        for datum in data
    ]
    return _figure(
        "cost",
        title,
        f"Time and memory of healing against the fraction of layers dropped; {said}.",
        f"{title}; {said}. {_limited(spoken)}.",
        cost_chart(data, look_of(curves), f"{title} as layers are dropped", [said]),
        data,
        panel=COST_WIDTH + GAP,
    )


def _size(data: list[Datum]) -> Figure:
    title = "Size of what stays"
    said = (
        "counted, not measured: parameters without the dropped layers, and the bytes that they "
        "take as they are held"
    )
    spoken = [
        f"{datum['panel']}, {datum['line']}, {datum['layers_dropped']} layers dropped: "
        f"{datum['value']:.4g}"
        for datum in data
    ]
    return _figure(
        "size",
        title,
        f"Parameters and weights against the fraction of layers dropped; {said}.",
        f"{title}; {said}. {_limited(spoken)}.",
        size_chart(data, f"{title} as layers are dropped", [said]),
        data,
        panel=COST_WIDTH + GAP,
    )


def _speed(curves: Sequence[Curve], data: list[Datum]) -> Figure:
    title = "Speed and memory"
    conditions = "; ".join(dict.fromkeys(timing.conditions for _, _, timing in timed(curves)))
    lines = "lines: measured, and what fewer operations or fewer layers alone would give"
    spoken = [
        f"{datum['panel']}, {datum['curve']}, {datum['layers_dropped']} layers dropped: "
        f"{datum['value']:.3g} {datum['what']}"
        for datum in data
    ]
    return _figure(
        SPEED,
        title,
        f"Measured against the fraction of layers dropped: {conditions}. Bars: the least and the "
        f"greatest of the rounds. {lines.capitalize()}: the head and the embeddings do not shrink.",
        f"{title}: {conditions}. {_limited(spoken)}.",
        speed_chart(data, look_of(curves), f"{title} as layers are dropped", [conditions, lines]),
        data,
        panel=COST_WIDTH + GAP,
    )


def _names(curves: Sequence[Curve], profiles: Sequence[tuple[str, Profile]]) -> list[str]:
    """A name for each matrix by one metric: its model's; of several, with its first curve's."""
    models = [model for model, _ in profiles]
    planned = {entry.profile: curve for curve in reversed(curves) for entry in curve.entries}
    return [
        model if models.count(model) == 1 else f"{model}{JOINT}{planned[profile.key].short}"
        for model, profile in profiles
    ]


def _nearest(
    metric: str, profiles: Sequence[tuple[str, Profile]], names: Sequence[str], several: bool
) -> Figure:
    data = nearest_data(profiles, names)
    scale = scale_of(metric)
    title = f"Distance across the nearest block of each size{f', {metric}' if several else ''}"
    labelled = len(profiles) == 1
    said = "the least of all blocks of n layers" + ("; numbers: l*(n), where it begins" * labelled)
    spoken = [
        f"{datum['line']}, n={datum['size']}: {datum['distance']:.4f} at l*={datum['first_layer']}"
        for datum in data
    ]
    return _figure(
        f"nearest-{_slug(metric)}" if several else "nearest",
        title,
        f"{scale.caption}: {said}.",
        f"{title}: {said}. {_limited(spoken)}.",
        nearest_chart(data, scale.legend, title, [said]),
        data,
        facts={"metric": metric},
    )


def _losses(curves: Sequence[Curve]) -> list[str]:
    """Of each point: its held-out losses, as many as there is room for, and its training losses."""
    points = trained(curves)
    said = []
    for curve, entry in points:
        assert entry.healing is not None
        measured = thinned(entry.healing.measured, max(2, MOST_NUMBERS // len(points)))
        first, last = entry.healing.trained[0], entry.healing.trained[-1]
        losses = ", ".join(f"{value:.3f} at step {step}" for step, value in measured)
        said.append(
            f"{curve.label}, {entry.num_dropped} layers dropped: held-out {losses}; "
            f"training {first.loss:.3f} at step {first.step}, {last.loss:.3f} at step {last.step}"
        )
    return said


def _distances(model: str, name: str, profile: Profile, several_metrics: bool) -> Figure:
    data = distance_data(profile)
    metric = str(profile.depends_on["metric"])
    scale = scale_of(metric)
    tokens = {"last": " at the last token", "all": " at all tokens but the first"}
    where = tokens.get(str(profile.depends_on.get("metric_tokens")), "")
    marks = [datum for datum in data if datum["nearest"]]
    said = f"mean of {profile.num_sequences} sequences; red: the nearest block of each size, l*(n)"
    title = f"Distance across every block of {name}{f', {metric}' if several_metrics else ''}"
    spoken = "; ".join(
        f"n={mark['size']}: l*={mark['first_layer']}, {mark['distance']:.4f}" for mark in marks
    )
    return _figure(
        f"distances-{profile.key}",
        title,
        f"{scale.caption}{where}, {said}.",
        f"{title}. Nearest block of each size n, with its first layer l* and distance: {spoken}.",
        distance_chart(data, scale.legend, title, [said]),
        data,
        panel=SIDE + 56,
        facts={"model": model, "metric": metric},
    )


def _layers(curves: Sequence[Curve]) -> Figure:
    title = "Which layers each plan drops"
    planned = distinct(curves)
    drawn = _few(planned, MOST_PLANS)
    data = dropped_data(drawn)
    plans = dict.fromkeys(
        f"{curve.label}, {entry.num_dropped}: {ranges(entry.dropped)}"
        for curve in drawn
        for entry in curve.entries
        if entry.dropped
    )
    some = f"{len(drawn)} of {len(planned)} curves; " if len(drawn) < len(planned) else ""
    said = f"{some}n layers dropped, coloured; grey: kept"
    return _figure(
        "layers",
        title,
        f"Each row is a plan that drops n layers: coloured ones go, grey ones stay; {some}"
        "layers count from 0.",
        f"{title}. {_limited(list(plans))}.",
        dropped_spec(data, look_of(curves), title, [said], 2),
        data,
        panel=WIDTH + 54,
    )


def _figure(
    name: str,
    title: str,
    caption: str,
    spoken: str,
    chart: alt.TopLevelMixin | dict[str, Any],
    data: Sequence[Datum],
    panel: int = 0,
    params: Sequence[dict[str, Any]] = (),
    facts: dict[str, str] | None = None,
) -> Figure:
    # The tests hold specifications against Vega-Lite's schema: with many panels it takes seconds.
    spec = chart if isinstance(chart, dict) else chart.to_dict(validate=False)
    spec["data"] = {"values": list(data)}
    if params:
        spec["params"] = list(params)
    spec["config"] = style.config(stacked=len(params) > 2)
    spec["description"] = spoken
    return Figure(name, title, caption, spoken, spec, panel, facts or {})


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
    return f"{start} {_limited(said)}."


def _limited(said: Sequence[str]) -> str:
    more = len(said) - MOST_NUMBERS
    tail = f"; and {more} more in curves.csv" if more > 0 else ""
    return "; ".join(said[:MOST_NUMBERS]) + tail


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _slug(name: str) -> str:
    """`name` as part of a file's name; with a hash of it where characters had to go."""
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60]
    return short if short == name else f"{short.strip('.-')}-{content_hash(name)[:6]}"
