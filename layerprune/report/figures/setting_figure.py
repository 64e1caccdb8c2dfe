"""Accuracy against a numeric setting in which curves differ, such as the LoRA rank."""

from collections.abc import Sequence

import altair as alt

from layerprune.analysis.curves import JOINT, Curve, Task
from layerprune.report.figures import chart
from layerprune.report.figures.curve_data import Datum, accuracy_data, point_rows
from layerprune.report.figures.figure import Figure, described, make_figure, slug

LEAST = 3
"""Different values from which on a setting is an axis."""


def numeric_setting(curves: Sequence[Curve]) -> str | None:
    """Return the setting, other than the seed, that takes several values: one, and numbers."""
    names = {name for curve in curves for name in curve.first.settings}
    varying = [
        name
        for name in names
        if len({curve.first.settings.get(name) for curve in curves if name in curve.first.settings})
        > 1
        and name != "seed"
        and not name.startswith("prune.")
    ]
    if len(varying) != 1:
        return None
    values = {curve.first.settings.get(varying[0], "") for curve in curves}
    try:
        return varying[0] if len({float(value) for value in values}) >= LEAST else None
    except ValueError:
        return None


def setting_figure(curves: Sequence[Curve], task: Task) -> Figure | None:
    """Return the accuracy against a setting, a line for each number of layers removed, if any."""
    name = numeric_setting(curves)
    if name is None:
        return None
    style = chart.study_style(curves)
    by_label = {curve.label: curve for curve in curves}
    data: list[Datum] = []
    for datum in point_rows(accuracy_data(curves, task.name)):
        curve = by_label[datum["curve"]]
        parts = [curve.first.model.name] if style.several_models else []
        parts += [curve.mark, f"{datum['layers_dropped']} layers removed"]
        value = float(curve.first.settings[name])
        data.append({**datum, "setting": value, "line": JOINT.join(parts)})
    data.sort(key=lambda datum: (datum["line"], datum["setting"]))
    lines = list(dict.fromkeys(datum["line"] for datum in data))
    values = sorted({datum["setting"] for datum in data})
    doubling = values[0] > 0 and values[-1] / values[0] >= 8
    scale = alt.Scale(type="log", base=2) if doubling else alt.Scale(zero=False)
    axis = alt.Axis(values=values, format="~g")
    x = alt.X("setting:Q", title=name, scale=alt.Scale(**scale.to_dict(), padding=16), axis=axis)
    y = chart.percent_axis("value", "accuracy (%)", 6, zero=False)
    color, shape = chart.ChartStyle(lines, None, field="line").channels()
    tooltip = [
        alt.Tooltip("line:N"),
        alt.Tooltip("setting:Q", title=name),
        alt.Tooltip("value:Q", format=".4f"),
        alt.Tooltip("stderr:Q", title="standard error", format=".4f"),
    ]
    encoding = {"x": x, "y": y, "color": color}
    layers = [
        chart.error_bars("datum.stderr !== null", {"x": x, "color": color}),
        *chart.line_and_dots(encoding, tooltip, shape=shape, line={"detail": "line:N"}),
    ]
    title = f"Accuracy on {task.name} against {name}"
    caption = f"{task.measure} on {task.size}; bars: ±1 standard error"
    return make_figure(
        f"setting-{slug(task.name)}",
        title,
        f"{caption}.",
        f"{title}, {caption}.",
        described(data, "{line}, {setting:g}: {value:.1%}"),
        chart.build(layers, data, style.heading(title), [caption], height=280),
        data,
    )
