"""What a training step costs against the fraction of layers dropped: time and memory."""

from collections.abc import Sequence

import altair as alt

from layerprune.report.curves import Curve
from layerprune.report.entry import Entry
from layerprune.report.figure import Figure, limited, make_figure
from layerprune.report.lines import (
    GAP,
    Chart,
    Look,
    faceted,
    fractions_axis,
    hue_of,
    look_of,
    shape_of,
)
from layerprune.report.series import Datum

WIDTH = 290
"""Of one of the two panels, in pixels."""

TIME = "seconds per 1,000 tokens"
MEMORY = "peak memory (GiB)"


def cost_data(curves: Sequence[Curve]) -> list[Datum]:
    """Time and memory of each trained point, of curves that were trained at several fractions."""
    data = []
    for curve in curves:
        found = [datum for entry in curve.entries for datum in _point(curve, entry)]
        if len({datum["fraction"] for datum in found}) > 1:
            data += found
    return sorted(data, key=lambda datum: str(datum["panel"]), reverse=True)


def cost_chart(data: list[Datum], look: Look, title: str, subtitle: list[str]) -> Chart:
    """Two panels: time on the left, memory on the right."""
    shown = list(dict.fromkeys(datum["hue"] for datum in data))
    hue, shape = hue_of(look, shown), shape_of(look, shown)
    x = fractions_axis(data, 5)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5))
    line = alt.Chart().mark_line(strokeWidth=2).encode(x=x, y=y, color=hue, detail="curve:N")
    dot = (
        alt.Chart()
        .mark_point(filled=True, opacity=1, size=50)
        .encode(x=x, y=y, color=hue, shape=shape, tooltip=_TOOLTIP)
    )
    panel = alt.layer(line, dot).properties(width=WIDTH, height=220)
    return (
        faceted(panel, data, 2, WIDTH)
        .resolve_scale(y="independent")
        .properties(title=alt.TitleParams(text=title, subtitle=subtitle))
    )


def _point(curve: Curve, entry: Entry) -> list[Datum]:
    healing = entry.healing
    if healing is None or healing.seconds_per_token is None:
        return []
    costs = [(TIME, 1000 * healing.seconds_per_token)]
    if healing.peak_memory_bytes is not None:
        costs.append((MEMORY, healing.peak_memory_bytes / 2**30))
    return [
        {
            "kind": "point",
            "panel": panel,
            "curve": curve.label,
            "hue": curve.hue,
            "mark": curve.mark,
            "fraction": entry.fraction,
            "layers_dropped": entry.num_dropped,
            "value": value,
        }
        for panel, value in costs
    ]


_TOOLTIP = [
    alt.Tooltip("curve:N"),
    alt.Tooltip("fraction:Q", title="fraction dropped", format=".3f"),
    alt.Tooltip("layers_dropped:Q", title="layers dropped"),
    alt.Tooltip("panel:N", title="what"),
    alt.Tooltip("value:Q", format=".3f"),
]


def cost_figure(curves: Sequence[Curve], data: list[Datum]) -> Figure:
    """Time and memory of a training step, in two panels."""
    title = "Cost of a training step"
    said = "median over steps; memory: the most that the process, or its GPU, held meanwhile"
    spoken = [
        f"{datum['panel']}, {datum['curve']}, {datum['layers_dropped']} layers dropped: "
        f"{datum['value']:.3g}"
        for datum in data
    ]
    return make_figure(
        "cost",
        title,
        f"Time and memory of healing against the fraction of layers dropped; {said}.",
        f"{title}; {said}. {limited(spoken)}.",
        cost_chart(data, look_of(curves), f"{title} as layers are dropped", [said]),
        data,
        panel=WIDTH + GAP,
    )
