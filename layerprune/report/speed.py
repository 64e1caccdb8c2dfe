"""How fast cut models are, against the fraction of layers dropped: measured, counted, ideal."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from layerprune.record.speed import Speed
from layerprune.report import style
from layerprune.report.cost import WIDTH
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
from layerprune.report.sped import ideal_ratio, timed

SPEED = "speed"
"""The figure's name, and that of its section in the page."""

READING = "reading: times as fast as the dense model"
WRITING = "writing: times as fast as the dense model"
WEIGHTS = "weights (GiB)"
PEAK = "most memory (GiB)"

MEASURED = "measured"
COUNTED = "by operations"
IDEAL = "by layers"
KINDS = (MEASURED, COUNTED, IDEAL)


def speed_data(curves: Sequence[Curve]) -> list[Datum]:
    """What was measured of each point, and what operations and layers alone would give."""
    return [
        {
            "kind": "point",
            "panel": panel,
            "what": what,
            "curve": curve.label,
            "line": f"{curve.label}: {what}",
            "hue": curve.hue,
            "mark": curve.mark,
            "fraction": entry.fraction,
            "layers_dropped": entry.num_dropped,
            "value": value,
            "low": low,
            "high": high,
        }
        for panel in (READING, WRITING, WEIGHTS, PEAK)
        for curve, entry, speed in timed(curves)
        for what, value, low, high in _values(panel, entry, speed)
    ]


def speed_chart(data: list[Datum], look: Look, title: str, subtitle: list[str]) -> Chart:
    """Four panels: reading and writing above, weights and memory below."""
    shown = list(dict.fromkeys(datum["hue"] for datum in data))
    hue, shape = hue_of(look, shown), shape_of(look, shown)
    x = fractions_axis(data, 5)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5))
    dash = alt.StrokeDash(
        "what:N",
        scale=alt.Scale(domain=list(KINDS), range=[style.SOLID, style.DASHED, style.DOTTED]),
        legend=alt.Legend(title=None, orient="top", symbolSize=300),
    )
    line = (
        alt.Chart()
        .mark_line(strokeWidth=2)
        .encode(x=x, y=y, color=hue, detail="line:N", strokeDash=dash)
    )
    measured = alt.Chart().transform_filter(alt.FieldEqualPredicate(field="what", equal=MEASURED))
    bar = measured.mark_rule(strokeWidth=1.25, aria=False).encode(
        x=x, y=alt.Y("low:Q"), y2="high:Q", color=hue
    )
    dot = measured.mark_point(filled=True, opacity=1, size=50, aria=False).encode(
        x=x, y=y, color=hue, shape=shape, tooltip=_TOOLTIP
    )
    panel = alt.layer(line, bar, dot).properties(width=WIDTH, height=220)
    return (
        faceted(panel, data, 2, WIDTH)
        .resolve_scale(y="independent")
        .properties(title=alt.TitleParams(text=title, subtitle=subtitle))
    )


def _values(panel: str, entry: Entry, speed: Speed) -> list[tuple[str, float, float, float]]:
    """What, value, low and high of each line in a panel at a point."""
    if panel == WEIGHTS:
        return [_exact(MEASURED, speed.pruned.weight_bytes / 2**30)]
    if panel == PEAK:
        return [_exact(MEASURED, speed.pruned.peak_bytes / 2**30)]
    reading = panel == READING
    ratio = speed.prefill_ratio if reading else speed.decode_ratio
    counted = speed.prefill_counted if reading else speed.decode_counted
    return [
        (MEASURED, ratio.median, ratio.low, ratio.high),
        *([] if counted is None else [_exact(COUNTED, counted)]),
        _exact(IDEAL, ideal_ratio(entry)),
    ]


def _exact(what: str, value: float) -> tuple[str, float, float, float]:
    return what, value, value, value


_TOOLTIP: list[Any] = [
    alt.Tooltip("curve:N"),
    alt.Tooltip("fraction:Q", title="fraction dropped", format=".3f"),
    alt.Tooltip("layers_dropped:Q", title="layers dropped"),
    alt.Tooltip("panel:N", title="what"),
    alt.Tooltip("value:Q", format=".3f"),
    alt.Tooltip("low:Q", title="least", format=".3f"),
    alt.Tooltip("high:Q", title="greatest", format=".3f"),
]


def speed_figure(curves: Sequence[Curve], data: list[Datum]) -> Figure:
    """Measured speeds and memory, beside what fewer operations alone would give."""
    title = "Speed and memory"
    conditions = "; ".join(dict.fromkeys(timing.conditions for _, _, timing in timed(curves)))
    lines = "lines: measured, and what fewer operations or fewer layers alone would give"
    spoken = [
        f"{datum['panel']}, {datum['curve']}, {datum['layers_dropped']} layers dropped: "
        f"{datum['value']:.3g} {datum['what']}"
        for datum in data
    ]
    return make_figure(
        SPEED,
        title,
        f"Measured against the fraction of layers dropped: {conditions}. Bars: the least and the "
        f"greatest of the rounds. {lines.capitalize()}: the head and the embeddings do not shrink.",
        f"{title}: {conditions}. {limited(spoken)}.",
        speed_chart(data, look_of(curves), f"{title} as layers are dropped", [conditions, lines]),
        data,
        panel=WIDTH + GAP,
    )
