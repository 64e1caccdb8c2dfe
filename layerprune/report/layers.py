"""A picture of which layers each plan drops."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import altair as alt

from layerprune.report import style
from layerprune.report.curves import Curve
from layerprune.report.entry import Entry, ranges
from layerprune.report.figure import Figure, few, limited, make_figure
from layerprune.report.lines import Look, look_of

MOST_PLANS = 200
"""Rows of the picture of the layers that each plan drops."""

Datum = dict[str, Any]

WIDTH = 300
ROW = 13
"""Height of one plan, in pixels."""


def distinct(curves: Sequence[Curve]) -> list[Curve]:
    """The curves whose plans are to be shown: a plan that curves share is there once."""
    # Healing and questions do not change which layers go: of curves by one rule, those that show
    # nothing of their own are left out.
    rules: dict[tuple[str, str, str], list[Curve]] = defaultdict(list)
    for curve in curves:
        first = curve.first
        rules[first.model, first.metric, first.strategy].append(curve)
    return [curve for group in rules.values() for curve in _own(group)]


def dropped_data(curves: Sequence[Curve]) -> list[Datum]:
    """One datum for each run of layers that go or stay, in each plan of each curve."""
    return [
        datum
        for name, curve in zip(_panels(curves), curves, strict=True)
        for datum in _plans(name, curve)
    ]


def dropped_spec(
    data: Sequence[Datum], look: Look, title: str, subtitle: list[str], columns: int
) -> dict[str, Any]:
    """A panel for each curve: a row for each plan, a cell for each layer."""
    panels: dict[str, list[Datum]] = defaultdict(list)
    for datum in data:
        panels[datum["panel"]].append(datum)
    # Altair would copy each panel many times over to put it beside the others.
    return {
        "$schema": alt.SCHEMA_URL,
        "title": {"text": title, "subtitle": subtitle},
        "concat": [_panel(name, rows, look) for name, rows in panels.items()],
        "columns": columns,
        "resolve": {"scale": {"color": "independent"}},
    }


def _panel(name: str, rows: Sequence[Datum], look: Look) -> dict[str, Any]:
    plans = list(dict.fromkeys(row["plan"] for row in rows))
    color = style.HUES[look.hues.index(rows[0]["hue"]) % len(style.HUES)]
    most = max(row["last"] for row in rows)
    layers = list(range(0, most + 1, 5 if most > 12 else 1))
    bare = {"ticks": False, "domain": False}
    runs = {
        "transform": [
            {"calculate": "datum.first - 0.5", "as": "start"},
            {"calculate": "datum.last + 0.5", "as": "end"},
        ],
        "mark": {"type": "rect", "stroke": style.PAPER, "strokeWidth": 1, "aria": False},
        "encoding": {
            "x": {
                "field": "start",
                "type": "quantitative",
                "title": "layer",
                "scale": {"domain": [-0.5, most + 0.5], "nice": False, "zero": False},
                "axis": {"values": layers, "labelAngle": 0, "grid": False, **bare},
            },
            "x2": {"field": "end"},
            "y": {
                "field": "plan",
                "type": "nominal",
                "title": "n",
                "sort": plans[::-1],
                "axis": {"titleAngle": 0, **bare},
            },
            "color": {
                "field": "state",
                "type": "nominal",
                "scale": {"domain": ["dropped", "kept"], "range": [color, style.KEPT]},
                "legend": None,
            },
            "tooltip": [
                {"field": "panel", "type": "nominal", "title": "plan of"},
                {"field": "layers_dropped", "type": "quantitative", "title": "layers dropped"},
                {"field": "layers", "type": "nominal", "title": "layers"},
                {"field": "state", "type": "nominal", "title": "which are"},
            ],
        },
    }
    # Runs are fewer marks than layers; lines between the layers let them be counted.
    between = {
        "data": {"values": [{"between": layer + 0.5} for layer in range(most)]},
        "mark": {"type": "rule", "strokeWidth": 1, "color": style.PAPER, "aria": False},
        "encoding": {"x": {"field": "between", "type": "quantitative"}},
    }
    return {
        "title": {"text": name, "fontSize": 13, "fontWeight": "normal", "offset": 6},
        "width": WIDTH,
        "height": ROW * len(plans),
        "transform": [{"filter": {"field": "panel", "equal": name}}],
        "layer": [runs, between],
    }


def _own(curves: Sequence[Curve]) -> list[Curve]:
    """The curves whose plans are not all those of another; of equal ones, the first."""
    plans = [{entry.dropped for entry in curve.entries} for curve in curves]
    return [
        curve
        for at, (curve, mine) in enumerate(zip(curves, plans, strict=True))
        if not any(mine < other or (mine == other and of < at) for of, other in enumerate(plans))
    ]


def _panels(curves: Sequence[Curve]) -> list[str]:
    """A name for each curve's panel: its strategy, and more only where that is not enough."""
    models = len({curve.first.model for curve in curves}) > 1
    short = [f"{curve.first.model} · {curve.mark}" if models else curve.mark for curve in curves]
    return [
        name if short.count(name) == 1 else curve.label
        for name, curve in zip(short, curves, strict=True)
    ]


def _plans(panel: str, curve: Curve) -> list[Datum]:
    data = []
    seen: dict[int, int] = defaultdict(int)
    for entry in curve.entries:
        if not entry.dropped:
            continue  # nothing to see in the dense model's row
        seen[entry.num_dropped] += 1
        again = seen[entry.num_dropped]
        # Layers named by the user can be different ones of the same number: a row for each.
        plan = f"{entry.num_dropped}" if again == 1 else f"{entry.num_dropped} ({again})"
        data += [
            {
                "panel": panel,
                "model": entry.model,
                "metric": entry.metric,
                "strategy": entry.strategy,
                "hue": curve.hue,
                "plan": plan,
                "layers_dropped": entry.num_dropped,
                "first": run[0],
                "last": run[-1],
                "layers": ranges(run),
                "state": "dropped" if dropped else "kept",
            }
            for dropped, run in _runs(entry)
        ]
    return data


def _runs(entry: Entry) -> list[tuple[bool, list[int]]]:
    """The model's layers from the first to the last, in runs of which all go or all stay."""
    return [
        (dropped, list(run))
        for dropped, run in groupby(range(entry.num_layers), key=set(entry.dropped).__contains__)
    ]


def layers_figure(curves: Sequence[Curve]) -> Figure:
    """Which layers each plan drops, a row a plan."""
    title = "Which layers each plan drops"
    planned = distinct(curves)
    drawn = few(planned, MOST_PLANS)
    data = dropped_data(drawn)
    plans = dict.fromkeys(
        f"{curve.label}, {entry.num_dropped}: {ranges(entry.dropped)}"
        for curve in drawn
        for entry in curve.entries
        if entry.dropped
    )
    some = f"{len(drawn)} of {len(planned)} curves; " if len(drawn) < len(planned) else ""
    said = f"{some}n layers dropped, coloured; grey: kept"
    return make_figure(
        "layers",
        title,
        f"Each row is a plan that drops n layers: coloured ones go, grey ones stay; {some}"
        "layers count from 0.",
        f"{title}. {limited(list(plans))}.",
        dropped_spec(data, look_of(curves), title, [said], 2),
        data,
        panel=WIDTH + 54,
    )
