"""The frontier of a search: what models keep, against what their weights take and their speed."""

from typing import Any

import altair as alt

from layerprune.report import style
from layerprune.report.cost import WIDTH
from layerprune.report.figure import Figure, limited, make_figure, slug
from layerprune.report.fit import HEALED, UNHEALED, Fit
from layerprune.report.lines import GAP, Chart, faceted
from layerprune.report.series import Datum
from layerprune.report.statistics import LEVEL


def frontier_chart(data: list[Datum], title: str, subtitle: list[str]) -> Chart:
    """Two panels: weights on the left, speed on the right; what was chosen is ringed."""
    base = alt.Chart()
    point = base.transform_filter("datum.kind === 'point'")
    x = alt.X(
        "value:Q", title=None, scale=alt.Scale(zero=False, padding=12), axis=alt.Axis(tickCount=5)
    )
    y = alt.Y(
        "kept:Q",
        title="kept of the margin over chance (%)",
        scale=alt.Scale(zero=False),
        axis=alt.Axis(labelExpr="format(datum.value * 100, '.3~g')", tickCount=6),
    )
    dash = alt.StrokeDash(
        "what:N",
        scale=alt.Scale(domain=[HEALED, UNHEALED], range=[style.SOLID, style.DOTTED]),
        legend=alt.Legend(title=None, orient="top", symbolSize=500),
    )
    color = style.HUES[0]
    line = point.mark_line(strokeWidth=2, color=color).encode(
        x=x, y=y, strokeDash=dash, order=alt.Order("layers_dropped:Q")
    )
    bar = point.mark_rule(strokeWidth=1.25, color=color, opacity=0.5, aria=False).encode(
        x=x, y=alt.Y("low:Q"), y2="high:Q"
    )
    dot = point.mark_point(filled=True, opacity=1, size=50, color=color, aria=False).encode(
        x=x, y=y, tooltip=_TOOLTIP
    )
    chosen = point.transform_filter("datum.chosen")
    ring = chosen.mark_point(size=260, strokeWidth=2, color=style.NEAREST, aria=False).encode(
        x=x, y=y, tooltip=_TOOLTIP
    )
    keep = base.transform_filter("datum.kind === 'keep'")
    floor = keep.mark_rule(strokeDash=style.DASHED, color=style.DENSE).encode(y=y)
    bound = (
        base.transform_filter("datum.kind === 'bound'")
        .mark_rule(strokeDash=style.DASHED, color=style.DENSE)
        .encode(x=x)
    )
    layers = [floor, bound, bar, line, dot, ring]
    panel = alt.layer(*layers).properties(width=WIDTH, height=240)
    return (
        faceted(panel, data, 2, WIDTH)
        .resolve_scale(x="independent")
        .properties(title=alt.TitleParams(text=title, subtitle=subtitle))
    )


_TOOLTIP: list[Any] = [
    alt.Tooltip("layers_dropped:Q", title="layers dropped"),
    alt.Tooltip("what:N", title="is"),
    alt.Tooltip("panel:N", title="what"),
    alt.Tooltip("value:Q", format=".2f"),
    alt.Tooltip("kept:Q", title="keeps", format=".1%"),
    alt.Tooltip("low:Q", title="at least", format=".1%"),
    alt.Tooltip("high:Q", title="at most", format=".1%"),
]


def frontier_figure(fit: Fit, several: bool) -> Figure:
    """What each measured size keeps, and the one that was chosen."""
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
    return make_figure(
        f"frontier-{slug(fit.study)}" if several else "frontier",
        title,
        f"The share of the dense model's margin over chance that stays; {said}.",
        f"{title}; {said}. {limited(spoken)}.",
        frontier_chart(data, title, [said]),
        data,
        panel=WIDTH + GAP,
    )
