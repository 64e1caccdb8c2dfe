"""The layers that each plan drops."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import altair as alt

from layerprune.analysis.curves import Curve
from layerprune.record.point import layer_ranges
from layerprune.report.figures import chart, theme
from layerprune.report.figures.chart import ChartStyle
from layerprune.report.figures.curve_data import Datum
from layerprune.report.figures.figure import Figure, limited, make_figure, sample_curves

MAX_PLANS = 200
"""Plans that are drawn, each as a row."""

WIDTH = 300
"""Width of a panel, in pixels."""

ROW = 13
"""Height of one plan, in pixels."""


def curves_with_own_plans(curves: Sequence[Curve]) -> list[Curve]:
    """Return the curves without those whose plans are all drawn for another curve."""
    # Healing and evaluation do not change plans: compare curves of the same rule.
    rules: dict[tuple[str, str, str], list[Curve]] = defaultdict(list)
    for curve in curves:
        first = curve.first
        rules[first.model.name, first.plan.metric, first.plan.strategy].append(curve)
    chosen = []
    for group in rules.values():
        plans = [{point.plan.dropped for point in curve.points} for curve in group]
        chosen += [
            curve
            for index, (curve, own) in enumerate(zip(group, plans, strict=True))
            if not any(
                own < other or (own == other and earlier < index)
                for earlier, other in enumerate(plans)
            )
        ]
    return chosen


def dropped_data(curves: Sequence[Curve]) -> list[Datum]:
    """Return a row for each run of dropped or of remaining layers, in each plan of each curve."""
    data = []
    for panel, curve in zip(_panels(curves), curves, strict=True):
        plans: Counter[int] = Counter()
        for point in curve.points:
            if not point.plan.dropped:
                continue  # the dense model's row would show nothing
            plans[point.num_dropped] += 1
            # Plans of named layers may have the same number of them: each has its own row.
            repeat = f" ({plans[point.num_dropped]})" if plans[point.num_dropped] > 1 else ""
            dropped = set(point.plan.dropped)
            for is_dropped, run in groupby(range(point.model.num_layers), key=dropped.__contains__):
                layers = list(run)
                data.append(
                    {
                        "panel": panel,
                        "model": point.model.name,
                        "metric": point.plan.metric,
                        "strategy": point.plan.strategy,
                        "hue": curve.hue,
                        "plan": f"{point.num_dropped}{repeat}",
                        "layers_dropped": point.num_dropped,
                        "first": layers[0],
                        "last": layers[-1],
                        "layers": layer_ranges(layers),
                        "state": "dropped" if is_dropped else "kept",
                    }
                )
    return data


def dropped_layers_figure(curves: Sequence[Curve]) -> Figure | None:
    """Return the figure of all plans: a panel for each curve, with a row for each plan, if any."""
    title = "Layers removed by each plan"
    planned = curves_with_own_plans(curves)
    drawn = sample_curves(planned, MAX_PLANS)
    if not (data := dropped_data(drawn)):
        return None
    plans = dict.fromkeys(
        f"{curve.label}, {point.num_dropped}: {layer_ranges(point.plan.dropped)}"
        for curve in drawn
        for point in curve.points
        if point.plan.dropped
    )
    part = f"{len(drawn)} of {len(planned)} curves; " if len(drawn) < len(planned) else ""
    panels: dict[str, list[Datum]] = defaultdict(list)
    for datum in data:
        panels[datum["panel"]].append(datum)
    style = chart.study_style(curves)
    # Not built by altair, which would copy each panel many times to put it beside the others.
    spec = {
        "$schema": alt.SCHEMA_URL,
        "title": {
            "text": style.heading(title),
            "subtitle": [f"{part}coloured: removed; grey: remaining"],
        },
        "concat": [_panel(name, rows, style) for name, rows in panels.items()],
        "columns": 2,
        "resolve": {"scale": {"color": "independent"}},
    }
    return make_figure(
        "layers",
        title,
        "Each row is a plan that removes n layers: coloured layers are removed, grey ones remain; "
        f"{part}layers count from 0.",
        f"{title}.",
        limited(list(plans)),
        spec,
        data,
        panel=WIDTH + 54,
    )


def _panel(name: str, rows: Sequence[Datum], style: ChartStyle) -> dict[str, Any]:
    plans = list(dict.fromkeys(row["plan"] for row in rows))
    color = dict(zip(style.hues, theme.tints(style.bases), strict=True))[rows[0]["hue"]]
    last = max(row["last"] for row in rows)
    ticks = list(range(0, last + 1, 5 if last > 12 else 1))
    bare: dict[str, Any] = {"ticks": False, "domain": False}
    runs = (
        alt.Chart()
        .transform_calculate(start="datum.first - 0.5", end="datum.last + 0.5")
        .mark_rect(stroke=theme.BACKGROUND, strokeWidth=1, aria=False)
        .encode(
            x=alt.X(
                "start:Q",
                title="layer",
                scale=alt.Scale(domain=[-0.5, last + 0.5], nice=False, zero=False),
                axis=alt.Axis(values=ticks, labelAngle=0, grid=False, **bare),
            ),
            x2="end",
            y=alt.Y("plan:N", title="n", sort=plans[::-1], axis=alt.Axis(titleAngle=0, **bare)),
            color=alt.Color(
                "state:N",
                scale=alt.Scale(domain=["dropped", "kept"], range=[color, theme.REMAINING]),
                legend=None,
            ),
            tooltip=[
                alt.Tooltip("panel:N", title="plan of"),
                chart.LAYERS_DROPPED,
                alt.Tooltip("layers:N", title="layers"),
                alt.Tooltip("state:N", title="which are"),
            ],
        )
    )
    # Runs of layers with lines between the layers are fewer marks than layers.
    between = alt.Chart(alt.Data(values=[{"between": layer + 0.5} for layer in range(last)]))
    between = between.mark_rule(strokeWidth=1, color=theme.BACKGROUND, aria=False)
    panel = alt.layer(runs, between.encode(x="between:Q"), data=chart.NO_DATA).properties(
        width=WIDTH, height=ROW * len(plans), title=chart.panel_title(name)
    )
    panel = panel.transform_filter(alt.FieldEqualPredicate(field="panel", equal=name))
    spec = panel.to_dict(validate=False)
    return {key: spec[key] for key in ("title", "width", "height", "transform", "layer")}


def _panels(curves: Sequence[Curve]) -> list[str]:
    """Return a name for each curve's panel: its strategy, or its label where that repeats."""
    models = [curve.first.model.name for curve in curves]
    names = [
        f"{model} · {curve.mark}" if len(set(models)) > 1 else curve.mark
        for model, curve in zip(models, curves, strict=True)
    ]
    return [
        name if names.count(name) == 1 else curve.label
        for name, curve in zip(names, curves, strict=True)
    ]
