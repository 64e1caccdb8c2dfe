"""The frontier of a search: what models keep, against the size of their weights and their speed."""

import altair as alt

from layerprune.analysis.statistics import LEVEL
from layerprune.report.figures import chart, theme
from layerprune.report.figures.cost_figures import WIDTH
from layerprune.report.figures.curve_data import point_rows
from layerprune.report.figures.figure import Figure, limited, make_figure, slug
from layerprune.report.tables.search_result import HEALED, UNHEALED, SearchReport

TOOLTIP = [
    chart.LAYERS_DROPPED,
    alt.Tooltip("what:N", title="is"),
    alt.Tooltip("panel:N", title="what"),
    alt.Tooltip("value:Q", format=".2f"),
    alt.Tooltip("kept:Q", title="keeps", format=".1%"),
    alt.Tooltip("low:Q", title="at least", format=".1%"),
    alt.Tooltip("high:Q", title="at most", format=".1%"),
]


def frontier_figure(search: SearchReport, several: bool) -> Figure:
    """Return the figure of one search; with `several`, it is named after its study."""
    data = search.frontier
    where = "datum.kind === 'point'"
    scale = alt.Scale(zero=False, padding=12)
    x = alt.X("value:Q", title=None, scale=scale, axis=alt.Axis(tickCount=5))
    y = chart.percent_axis("kept", "kept of the margin over chance (%)", 6, zero=False)
    dash = alt.StrokeDash(
        "what:N",
        scale=alt.Scale(domain=[HEALED, UNHEALED], range=[theme.SOLID, theme.DOTTED]),
        legend=alt.Legend(title=None, orient="top", symbolSize=500),
    )
    color = theme.HUES[0]
    line, dots = chart.line_and_dots(
        {"x": x, "y": y},
        TOOLTIP,
        line={"strokeDash": dash, "order": alt.Order("layers_dropped:Q")},
        where=where,
        color=color,
    )
    bars = chart.error_bars(where, {"x": x}, color=color, opacity=0.5)
    ring = (
        alt.Chart()
        .transform_filter(where)
        .transform_filter("datum.chosen")
        .mark_point(size=260, strokeWidth=2, color=theme.HIGHLIGHT, aria=False)
        .encode(x=x, y=y, tooltip=TOOLTIP)
    )
    kept, bound = (
        alt.Chart()
        .transform_filter(f"datum.kind === '{kind}'")
        .mark_rule(strokeDash=theme.DASHED, color=theme.DENSE)
        .encode(**axis)
        for kind, axis in (("keep", {"y": y}), ("bound", {"x": x}))
    )
    title = f"What smaller models keep{f', {search.study}' if several else ''}"
    budget = next(datum["kept"] for datum in data if datum["kind"] == "keep")
    caption = (
        f"bars: {LEVEL:.0%} intervals by paired questions; dashed: the budget, fit.keep={budget:g}"
        "; ringed: the chosen model"
    )
    numbers = [
        f"{datum['panel']} {datum['value']:.4g}, {datum['layers_dropped']} layers removed, "
        f"{datum['what']}{', chosen' if datum['chosen'] else ''}: keeps {datum['kept']:.1%}"
        for datum in point_rows(data)
    ]
    return make_figure(
        f"frontier-{slug(search.study)}" if several else "frontier",
        title,
        f"The share of the dense model's margin over chance that is kept; {caption}.",
        f"{title}; {caption}.",
        limited(numbers),
        chart.build(
            [kept, bound, bars, line, dots, ring],
            data,
            title,
            [caption],
            width=WIDTH,
            height=240,
            columns=2,
            independent="x",
        ),
        data,
    )
