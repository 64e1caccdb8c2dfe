"""Accuracy of each task and of its subjects, and held-out loss, against the fraction removed."""

import math
from collections import Counter
from collections.abc import Sequence
from os.path import commonprefix
from typing import Any, Literal

import altair as alt

from layerprune.analysis.critical import named_dips
from layerprune.analysis.curves import UNHEALED, Curve, Task
from layerprune.report.figures import chart, theme
from layerprune.report.figures.chart import ChartStyle
from layerprune.report.figures.curve_data import (
    Datum,
    accuracy_data,
    error_caption,
    loss_data,
    num_curves,
    point_rows,
    value_range,
)
from layerprune.report.figures.dip_labels import dip_rows
from layerprune.report.figures.figure import Figure, limited, make_figure, sample_curves, slug

MANY_COLORS = range(7, 17)
"""Numbers of colours for which each has a panel: lines of so many hide each other."""

MAX_SUBJECT_POINTS = 2_000
"""Points in the small panels of a group's subjects: more could not be told apart."""

TOOLTIP = [
    alt.Tooltip("curve:N"),
    alt.Tooltip("task:N"),
    chart.FRACTION,
    chart.LAYERS_DROPPED,
    alt.Tooltip("layers:N", title="which"),
    alt.Tooltip("value:Q", format=".4f"),
    alt.Tooltip("stderr:Q", title="standard error", format=".4f"),
    alt.Tooltip("num_samples:Q", title="samples"),
]


def accuracy_figure(curves: Sequence[Curve], task: Task) -> Figure:
    """Return the figure of the accuracy on a task, with a line for each curve."""
    style = chart.study_style(curves)
    panels = _panels(curves, style)
    data = _near(
        [datum for name, part in panels.items() for datum in accuracy_data(part, task.name, name)]
    )
    title = f"Accuracy on {task.name}"
    drawn = {datum["value"] for datum in data if datum["kind"] == "chance"}
    below = [f"chance, {chance:.1%}, is below" for chance in task.chances if chance not in drawn]
    caption = _joined(f"{task.measure} on {task.size}", _errors(data), *below)
    y = _accuracy_axis(data, 6)
    if len(panels) == 1 and len(curves) <= chart.MAX_ERROR_CURVES:
        axes: tuple[Any, Any] = chart.fraction_axis(data, 8), y
        fractions, values = (axis.to_dict()["scale"]["domain"] for axis in axes)
        data += dip_rows(data, named_dips(curves, task.name), fractions, values)
    return _figure(
        f"accuracy-{slug(task.name)}",
        title,
        f"{_joined(caption, style.dashes(data))}.",
        f"{title}, {caption}.",
        # With a single model, its dashed line has a label instead.
        [caption, *([style.dashes(data)] if style.several_models else [])],
        data,
        style,
        y,
        columns=3 if len(panels) > 1 else 0,
    )


def subjects_figure(curves: Sequence[Curve], task: Task, tasks: dict[str, Task]) -> Figure:
    """Return the figure of the accuracy on each subject of a group, with a panel for each."""
    style = chart.study_style(curves)
    # Without the common start of all names, more of each fits above its panel.
    start = commonprefix(task.children)  # noqa: RUF071 - names, not paths
    start = start[: start.rfind("_") + 1]
    drawn = sample_curves(curves, MAX_SUBJECT_POINTS // len(task.children))
    data = []
    for child in task.children:
        panel = f"{child.removeprefix(start)} ({tasks[child].num_samples[-1]:,})"
        data += accuracy_data(drawn, child, panel)
    part = f"{len(drawn)} of {len(curves)} curves, all are in curves.csv"
    caption = _joined(
        part if len(drawn) < len(curves) else "",
        f"{task.measure}, number of questions in brackets",
        _errors(data),
    )
    title = f"Accuracy on each subject of {task.name}"
    return _figure(
        f"subjects-{slug(task.name)}",
        title,
        f"{_joined(caption, style.dashes(data))}. With few questions, single points are noisy.",
        f"{title}.",
        [caption, style.dashes(data)],
        data,
        style,
        _accuracy_axis(data, 4),
        columns=3 if len(task.children) <= 6 else 4,
    )


def loss_figure(curves: Sequence[Curve]) -> Figure:
    """Return the figure of the held-out loss divided by ln V, with a line for each curve."""
    style = chart.study_style(curves)
    panels = _panels(curves, style)
    data = [datum for name, part in panels.items() for datum in loss_data(part, name)]
    sizes = sorted({datum["num_samples"] for datum in point_rows(data)})
    sample = _joined(f"{' or '.join(map(str, sizes))} sequences of held-out text", _errors(data))
    scale = alt.Scale(domain=[0, max(1.05, value_range(data)[1] * 1.03)])
    return _figure(
        "loss",
        "Held-out loss",
        f"Cross-entropy per token divided by ln V, on {sample}. A loss of 1 is chance, a uniform "
        f"guess among all tokens; {style.dashes(data)}.",
        f"Loss over ln V on {sample}.",
        [f"cross-entropy / ln V on {sample}; 1 is chance"],
        data,
        style,
        alt.Y("value:Q", title="held-out loss / ln V", scale=scale, axis=alt.Axis(tickCount=6)),
        columns=3 if len(panels) > 1 else 0,
        number_format=".3f",
    )


def _panels(curves: Sequence[Curve], style: ChartStyle) -> dict[str, list[Curve]]:
    """Return the curves by panel: one of each colour if there are many, else a single panel.

    The panel of a recipe has the unhealed curve, too.
    """
    if len(style.hues) not in MANY_COLORS:
        return {"": list(curves)}
    panels = {hue: [curve for curve in curves if curve.hue == hue] for hue in style.hues}
    unhealed = [curve for curve in curves if curve.first.recipe == UNHEALED]
    for own in panels.values():
        if all(curve.first.recipe != UNHEALED for curve in own):
            pairs = {(curve.first.model.name, curve.mark) for curve in own}
            own += [curve for curve in unhealed if (curve.first.model.name, curve.mark) in pairs]
    shown = Counter(curve.label for own in panels.values() for curve in own)
    return {
        hue: own for hue, own in panels.items() if any(shown[curve.label] == 1 for curve in own)
    }


def _near(data: list[Datum]) -> list[Datum]:
    """Return the data without the line of chance if that would flatten the curves.

    It does if it lies below them by more than twice the height that they and the dense model take.
    """
    low, high = value_range([datum for datum in data if datum["kind"] != "chance"])
    least = low - 2 * (high - low)
    return [datum for datum in data if datum["kind"] != "chance" or datum["value"] >= least]


def _figure(
    name: str,
    title: str,
    caption: str,
    summary: str,
    subtitle: list[str],
    data: list[Datum],
    style: ChartStyle,
    y: alt.Y,
    columns: int = 0,
    number_format: str = ".1%",
) -> Figure:
    layers = _layers(data, style, y, small=columns > 0)
    if columns:
        drawn = chart.build(
            layers, data, style.heading(title), subtitle, width=190, height=140, columns=columns
        )
    else:
        drawn = chart.build(layers, data, f"{style.heading(title)} as layers are removed", subtitle)
    numbers = _numbers(data, number_format)
    return make_figure(
        name, title, caption, summary, numbers, drawn, data, params=style.params(data)
    )


def _layers(data: Sequence[Datum], style: ChartStyle, y: alt.Y, small: bool) -> list[alt.Chart]:
    """Return reference lines below, then error bands, error bars, lines, dots and labels."""
    x = chart.fraction_axis(data, 3 if small else 8)
    color, shape = style.channels()
    # Where the bands of many curves overlap, they must not hide the lines.
    strength = 0.18 if len(style.hues) <= 4 else 0.1
    band = (
        alt.Chart()
        .transform_filter(f"{chart.ERRORS_SHOWN} && datum.error === 'band'")
        .mark_area(opacity=1, aria=False)
        .encode(
            x=x,
            y=alt.Y("low:Q"),
            y2="high:Q",
            color=color,
            detail="curve:N",
            fillOpacity=alt.FillOpacityValue(**style.highlight(strength, strength / 4)),
        )
    )
    bar = chart.error_bars(
        f"{chart.ERRORS_SHOWN} && datum.error === 'bar'",
        {
            "x": alt.X("bar:Q"),
            "color": color,
            "strokeOpacity": alt.StrokeOpacityValue(**style.highlight(0.5)),
        },
        width=1 if small else 1.25,
    )
    hollow = bool(style.recipes)
    line, dots = chart.line_and_dots(
        {"x": x, "y": y, "color": color},
        TOOLTIP,
        shape=shape,
        line={
            "detail": "curve:N",
            "strokeOpacity": alt.StrokeOpacityValue(**style.highlight(1)),
            **({"strokeDash": style.healing_dash()} if style.recipes else {}),
        },
        dots={
            "fillOpacity": alt.FillOpacityValue(**style.highlight(1)),
            **({"strokeOpacity": alt.StrokeOpacityValue(**style.highlight(1))} if hollow else {}),
        },
        hollow=hollow,
        where="datum.kind === 'point' && datum.joined",
        dots_where="datum.kind === 'point'",
        size=22 if small else 60,
        width=1.5 if small else 2,
    )
    chance, dense = (chart.reference_lines(style, y, kind, small) for kind in ("chance", "dense"))
    labels = [] if small else [*_label(y, "chance"), _lone_labels(x, y), _dip_labels(x, y, style)]
    if not small and not style.several_models:  # several labels would overlap
        labels += _label(y, "dense")
    return [chance, dense, band, bar, line, dots.properties(name=chart.DOTS), *labels]


def _lone_labels(x: alt.X, y: alt.Y) -> alt.Chart:
    """Return the recipe beside each healed point that no line leads to."""
    text = alt.Chart().transform_filter("datum.kind === 'point' && datum.lone")
    text = text.mark_text(align="left", dx=8, color=theme.LABEL, aria=False)
    return text.encode(x=x, y=y, text="lone:N")


def _dip_labels(x: alt.X, y: alt.Y, style: ChartStyle) -> alt.Chart:
    """Return the label of each dip, at its offset from the dot."""
    text = alt.Chart().transform_filter("datum.kind === 'dip'")
    text = text.mark_text(
        dx=alt.expr("datum.dx"),
        dy=alt.expr("datum.dy"),
        baseline="middle",
        color=theme.LABEL,
        aria=False,
    )
    opacity = alt.FillOpacityValue(**style.highlight(1))
    return text.encode(x=x, y=y, text="label:N", fillOpacity=opacity)


def _label(y: alt.Y, kind: Literal["chance", "dense"]) -> list[alt.Chart]:
    """Return the label of a dashed line: the dense model's at the right, above falling curves."""
    text = alt.Chart().transform_filter(f"datum.kind === '{kind}'")
    # An outline in the background's colour separates letters from curves behind them.
    outline: dict[str, Any] = {
        "stroke": theme.BACKGROUND,
        "strokeWidth": 3,
        "strokeJoin": "round",
    }
    if kind == "dense":
        place: dict[str, Any] = {"align": "right", "baseline": "bottom", "dx": -2, "dy": -3}
        x, color = alt.value("width"), theme.DENSE
    else:
        place = {"align": "left", "baseline": "top", "dx": 4, "dy": 4}
        x, color = alt.value(0), theme.LABEL
    return [
        text.mark_text(**place, **mark, color=color, aria=False).encode(x=x, y=y, text="label:N")
        for mark in (outline, {})
    ]


def _accuracy_axis(data: Sequence[Datum], ticks: int) -> alt.Y:
    low, high = value_range(data)
    # Whole tens of percent at both ends.
    domain = [math.floor(low * 10) / 10, math.ceil(high * 10) / 10]
    return chart.percent_axis("value", "accuracy (%)", ticks, domain=domain)


def _errors(data: Sequence[Datum]) -> str:
    caption = error_caption(data)
    if caption and num_curves(data) > chart.MAX_ERROR_CURVES:
        return f"{caption}, drawn for up to {chart.MAX_ERROR_CURVES} curves at once"
    return caption


def _joined(*texts: str) -> str:
    return "; ".join(filter(None, texts))


def _numbers(data: Sequence[Datum], number_format: str) -> str:
    texts = []
    for datum in data:
        panel = f"{datum['panel']}, " if datum.get("panel") else ""
        if datum["kind"] == "point":
            value = f"{datum['value']:{number_format}}"
            dropped = f"{datum['layers_dropped']} layers removed"
            texts.append(f"{panel}{datum['curve']}, {dropped}: {value}")
        elif datum["kind"] == "dip":
            texts.append(f"{datum['curve']}: {datum['label']}")
        elif datum["label"]:
            texts.append(f"{panel}{datum['label']}")
    return limited(texts)
