"""A picture of which layers each plan drops."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import altair as alt

from layerprune.report import style
from layerprune.report.curves import Curve
from layerprune.report.lines import Look

Datum = dict[str, Any]

WIDTH = 300
ROW = 13
"""Height of one plan, in pixels."""


def dropped_data(curves: Sequence[Curve]) -> list[Datum]:
    """One datum for each layer of each plan; a plan that several curves share is there once."""
    # Healing and questions do not change which layers go: of curves by one rule, those that show
    # nothing of their own are left out.
    rules: dict[tuple[str, str, str], list[Curve]] = defaultdict(list)
    for curve in curves:
        first = curve.first
        rules[first.model, first.metric, first.strategy].append(curve)
    distinct = [curve for group in rules.values() for curve in _own(group)]
    names = _panels(distinct)
    return [
        datum for name, curve in zip(names, distinct, strict=True) for datum in _plans(name, curve)
    ]


def dropped_chart(
    data: Sequence[Datum], look: Look, title: str, subtitle: list[str], columns: int
) -> alt.ConcatChart:
    """A panel for each curve: a row for each plan, a cell for each layer."""
    panels: dict[str, list[Datum]] = defaultdict(list)
    for datum in data:
        panels[datum["panel"]].append(datum)
    charts = [_panel(name, rows, look) for name, rows in panels.items()]
    return (
        alt.concat(*charts, columns=columns, data=alt.Data(values=list(data)))
        .resolve_scale(color="independent")
        .properties(title=alt.TitleParams(text=title, subtitle=subtitle))
    )


def _panel(name: str, rows: Sequence[Datum], look: Look) -> alt.Chart:
    plans = list(dict.fromkeys(row["plan"] for row in rows))
    color = style.HUES[look.hues.index(rows[0]["hue"]) % len(style.HUES)]
    most = max(row["layer"] for row in rows)
    step = 5 if most > 12 else 1
    return (
        alt.Chart()
        .transform_filter(alt.FieldEqualPredicate(field="panel", equal=name))
        .mark_rect(stroke="white", strokeWidth=1, aria=False)
        .encode(
            x=alt.X(
                "layer:O",
                title="layer",
                axis=alt.Axis(
                    values=list(range(0, most + 1, step)), labelAngle=0, ticks=False, domain=False
                ),
            ),
            y=alt.Y(
                "plan:N",
                title="n",
                sort=plans[::-1],
                axis=alt.Axis(ticks=False, domain=False, titleAngle=0),
            ),
            color=alt.Color(
                "state:N",
                scale=alt.Scale(domain=["dropped", "kept"], range=[color, style.KEPT]),
                legend=None,
            ),
            tooltip=[
                alt.Tooltip("panel:N", title="plan of"),
                alt.Tooltip("layers_dropped:Q", title="layers dropped"),
                alt.Tooltip("layer:O"),
                alt.Tooltip("state:N", title="which is"),
            ],
        )
        .properties(
            width=WIDTH,
            height=alt.Step(ROW),
            title=alt.TitleParams(text=name, fontSize=13, fontWeight="normal", offset=6),
        )
    )


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
                "hue": curve.hue,
                "plan": plan,
                "layers_dropped": entry.num_dropped,
                "layer": layer,
                "state": "dropped" if layer in entry.dropped else "kept",
            }
            for layer in range(entry.num_layers)
        ]
    return data
