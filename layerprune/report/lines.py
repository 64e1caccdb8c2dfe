"""Curves against the fraction of layers dropped: accuracy, accuracy by subject, held-out loss."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from layerprune.report import style
from layerprune.report.curves import UNHEALED, Curve, Task
from layerprune.report.series import Datum, most_dropped, num_curves, span

Chart = alt.LayerChart | alt.FacetChart

PANEL = 190
"""Width of a small panel, in pixels."""

GAP = 26
"""Between two small panels."""

MOST_ERRORS = 12
"""Curves in one figure whose errors can be told apart; of more, they are shown at none.

The page shows them again when so few are left switched on.
"""

ERRORS = "errors_shown"
"""The parameter that says so."""

NUMBERS = alt.Data(values=[])
"""Where a chart's data go once it is a specification: altair would check each value of them."""

PICKABLE = "dots"
"""The marks whose legends can be clicked."""


@dataclass(frozen=True)
class Look:
    """How curves are told apart: by colour and shape, and by line where some are healed."""

    hues: list[str]
    title: str
    marks: list[str]
    recipes: list[str]
    """By which curves are healed; none if none is."""
    some_unhealed: bool
    """Whether there is a curve that is not."""

    @property
    def several_models(self) -> bool:
        """Whether colours stand for models, so that shapes have to tell strategies apart."""
        return self.title == "model"

    def dashes(self, data: Sequence[Datum]) -> str:
        """What the dashed lines of a figure are, and whether colours say enough."""
        there = {datum["kind"] for datum in data}
        dense = (
            "coloured dashes: the dense models"
            if self.several_models
            else ("black dashes: the dense model")
        )
        said = [dense] if "dense" in there else []
        if "chance" in there:
            said.append("grey dashes: guessing evenly")
        if len(self.hues) > len(style.HUES):
            said.append(f"more than {len(style.HUES)} colours repeat")
        return "; ".join(said)


def look_of(curves: Sequence[Curve]) -> Look:
    """The look that every figure of a study shares."""
    models = len({curve.first.model for curve in curves}) > 1
    return Look(
        hues=list(dict.fromkeys(curve.hue for curve in curves)),
        title="model" if models else "strategy",
        marks=list(dict.fromkeys(curve.mark for curve in curves)),
        recipes=list(
            dict.fromkeys(curve.first.heal for curve in curves if curve.first.heal != UNHEALED)
        ),
        some_unhealed=any(curve.first.heal == UNHEALED for curve in curves),
    )


def accuracy_chart(data: list[Datum], look: Look, task: Task, subtitle: list[str]) -> Chart:
    """Accuracy on one task or group."""
    title = f"Accuracy on {task.name} as layers are dropped"
    return _single(data, look, _percent_axis(data, ticks=6), title, subtitle)


def loss_chart(data: list[Datum], look: Look, subtitle: list[str]) -> Chart:
    """Loss on held-out text, divided by ln V."""
    _, high = span(data)
    axis = alt.Y(
        "value:Q",
        title="held-out loss / ln V",
        scale=alt.Scale(domain=[0, max(1.05, high * 1.03)]),
        axis=alt.Axis(tickCount=6),
    )
    return _single(data, look, axis, "Held-out loss as layers are dropped", subtitle)


def subjects_chart(
    data: list[Datum], look: Look, task: Task, subtitle: list[str], columns: int
) -> Chart:
    """Accuracy on each task of a group, in small panels with the same scales."""
    layers = _layers(look, _percent_axis(data, ticks=4), fractions_axis(data, 3), small=True)
    panel = alt.layer(*layers).properties(width=PANEL, height=140)
    title = f"Accuracy on each subject of {task.name}"
    return faceted(panel, data, columns, PANEL).properties(
        title=alt.TitleParams(text=title, subtitle=subtitle)
    )


def faceted(panel: Chart, data: list[Datum], columns: int, width: int) -> alt.FacetChart:
    """A small picture for each `panel` of the data, all on the same scales."""
    header = alt.Header(title=None, labelAnchor="start", labelLimit=width, labelPadding=4)
    names = list(dict.fromkeys(datum["panel"] for datum in data))
    return panel.facet(
        data=NUMBERS,
        facet=alt.Facet("panel:N", sort=names, header=header),
        columns=columns,
        spacing={"row": 18, "column": GAP},
    ).resolve_axis(x="independent")  # a shared one would stand where the last row has no panel


def hue_of(look: Look, shown: Sequence[str]) -> alt.Color:
    """The colours of curves, the same in every figure; the legend has those that are `shown`."""
    legend = _legend(look.title, shown) if len(look.hues) > 1 else None
    return alt.Color("hue:N", scale=_scale(look.hues, style.HUES), legend=legend)


def shape_of(look: Look, shown: Sequence[str]) -> alt.Shape:
    """The shapes of points; `shown` are the hues in the legend."""
    # With one model, shape says again what colour says, for those who see colours less well.
    field, domain = ("mark", look.marks) if look.several_models else ("hue", look.hues)
    own = look.several_models and len(domain) > 1
    names = domain if look.several_models else shown
    legend = _legend("strategy" if own else look.title, names) if len(domain) > 1 else None
    return alt.Shape(f"{field}:N", scale=_scale(domain, style.SHAPES), legend=legend)


def told_apart(field: str, models: Sequence[str]) -> tuple[alt.Color, alt.Shape]:
    """The colour and the shape of each model, in figures where no curve is drawn."""
    legend = _legend("model", models) if len(models) > 1 else None
    color = alt.Color(f"{field}:N", scale=_scale(models, style.HUES), legend=legend)
    return color, alt.Shape(f"{field}:N", scale=_scale(models, style.SHAPES), legend=legend)


def _scale(names: Sequence[str], looks: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=names, range=[looks[at % len(looks)] for at in range(len(names))])


def picked(look: Look, strength: float, faint: float = 0.08) -> dict[str, Any]:
    """The opacity of what is picked in the legends, or of all if nothing is; else `faint`.

    Of a fill or of a stroke, not of the mark: each mark that is see-through as a whole is painted
    on a sheet of its own, and hundreds of them take seconds.
    """
    names = [name for name, _ in _pickers(look)]
    if not names:
        return {"value": strength}
    test = {"and": [{"param": name} for name in names]}
    return {"value": faint, "condition": {"test": test, "value": strength}}


def pickers(look: Look) -> list[dict[str, Any]]:
    """Vega-Lite's parameters that make the legends clickable: those that `picked` asks."""
    return [
        {
            "name": name,
            "select": {"type": "point", "fields": [field]},
            "bind": "legend",
            "views": [PICKABLE],
        }
        for name, field in _pickers(look)
    ]


def errors_shown(data: Sequence[Datum]) -> dict[str, Any]:
    """Vega-Lite's parameter that says whether errors are drawn: not of many curves at once."""
    return {"name": ERRORS, "value": num_curves(data) <= MOST_ERRORS}


def _pickers(look: Look) -> list[tuple[str, str]]:
    """Of each legend whose entries can be clicked: the parameter's name and its field."""
    own = look.several_models and len(look.marks) > 1  # shapes have a legend of their own
    return [
        *([("hue_picked", "hue")] if len(look.hues) > 1 else []),
        *([("mark_picked", "mark")] if own else []),
    ]


def rule_of(look: Look, y: alt.Y, kind: Literal["chance", "dense"], small: bool) -> alt.Chart:
    """The dashed lines of the dense models, or of guessing evenly."""
    rule = alt.Chart().transform_filter(f"datum.kind === '{kind}'")
    mark = rule.mark_rule(
        strokeDash=style.DASHED if not small else [4, 3],
        strokeWidth=1.25,
        color=style.CHANCE if kind == "chance" else style.DENSE,
    )
    if kind == "dense" and look.several_models:
        return mark.encode(y=y, color="hue:N")
    return mark.encode(y=y)


def _single(data: list[Datum], look: Look, axis: alt.Y, title: str, subtitle: list[str]) -> Chart:
    layers = _layers(look, axis, fractions_axis(data, 8), small=False)
    return alt.layer(*layers, data=NUMBERS).properties(
        width=style.WIDTH, height=style.HEIGHT, title=alt.TitleParams(text=title, subtitle=subtitle)
    )


def _percent_axis(data: list[Datum], ticks: int) -> alt.Y:
    low, high = span(data)
    return alt.Y(
        "value:Q",
        title="accuracy (%)",
        # From one multiple of ten percent to another: steps as they are read.
        scale=alt.Scale(domain=[math.floor(low * 10) / 10, math.ceil(high * 10) / 10]),
        # Percent signs at every tick would only repeat the title.
        axis=alt.Axis(labelExpr="format(datum.value * 100, '.3~g')", tickCount=ticks),
    )


def _layers(look: Look, y: alt.Y, x: alt.X, small: bool) -> list[alt.Chart]:
    """Chance and dense lines below, then bands, curves, error bars and points."""
    hue, shape = hue_of(look, look.hues), shape_of(look, look.hues)
    base = alt.Chart()
    curve = base.transform_filter("datum.kind === 'point' && datum.joined")
    line = curve.mark_line(strokeWidth=1.5 if small else 2).encode(
        x=x,
        y=y,
        color=hue,
        detail="curve:N",
        strokeOpacity=alt.StrokeOpacityValue(**picked(look, 1)),
    )
    if look.recipes:
        # As in the paper: healed curves solid, the others dotted. Where none is healed, all are
        # solid: dots would only make them harder to read.
        dash_domain = ["healed", "not healed"]
        dash = alt.Scale(domain=dash_domain, range=[style.SOLID, style.DOTTED])
        legend = _legend(None, dash_domain if look.some_unhealed else dash_domain[:1])
        legend.symbolSize = 500  # long enough to show what is dotted
        if len(look.recipes) == 1:  # of several, the colours' legend has the names
            by = json.dumps(f"healed: {look.recipes[0]}")
            legend.labelExpr = f"datum.value === 'healed' ? {by} : datum.label"
        line = line.encode(strokeDash=alt.StrokeDash("healed:N", scale=dash, legend=legend))
    point = base.transform_filter("datum.kind === 'point'")
    # Where bands of many curves lie over each other, they must not hide the lines.
    strong = 0.18 if len(look.hues) <= 4 else 0.1
    band = (
        base.transform_filter(f"{ERRORS} && datum.error === 'band'")
        .mark_area(opacity=1, aria=False)
        .encode(
            x=x,
            y=alt.Y("low:Q"),
            y2="high:Q",
            color=hue,
            detail="curve:N",
            fillOpacity=alt.FillOpacityValue(**picked(look, strong, strong / 4)),
        )
    )
    bar = (
        base.transform_filter(f"{ERRORS} && datum.error === 'bar'")
        .mark_rule(strokeWidth=1 if small else 1.25, aria=False)
        .encode(
            x=alt.X("bar:Q"),
            y=alt.Y("low:Q"),
            y2="high:Q",
            color=hue,
            strokeOpacity=alt.StrokeOpacityValue(**picked(look, 0.5)),
        )
    )
    # Thousands of points would each be described; the figure's own description holds them.
    dot = (
        point.mark_point(filled=True, opacity=1, size=22 if small else 60, aria=False)
        .encode(
            x=x,
            y=y,
            color=hue,
            shape=shape,
            fillOpacity=alt.FillOpacityValue(**picked(look, 1)),
            tooltip=_TOOLTIP,
        )
        .properties(name=PICKABLE)
    )
    rules = [rule_of(look, y, kind, small) for kind in ("chance", "dense")]
    labels = [] if small else _label(y, "chance")
    if not small and not look.several_models:  # the names of several lines would overlap
        labels += _label(y, "dense")
    return [*rules, band, bar, line, dot, *labels]


_TOOLTIP = [
    alt.Tooltip("curve:N"),
    alt.Tooltip("task:N"),
    alt.Tooltip("fraction:Q", title="fraction dropped", format=".3f"),
    alt.Tooltip("layers_dropped:Q", title="layers dropped"),
    alt.Tooltip("layers:N", title="which"),
    alt.Tooltip("value:Q", format=".4f"),
    alt.Tooltip("stderr:Q", title="standard error", format=".4f"),
    alt.Tooltip("num_samples:Q", title="samples"),
]


def _label(y: alt.Y, kind: Literal["chance", "dense"]) -> list[alt.Chart]:
    """The name of a dashed line: the dense one's on the right, where curves have come down."""
    text = alt.Chart().transform_filter(f"datum.kind === '{kind}'")
    # A seam of paper around the letters first: curves may pass below them.
    seam: dict[str, Any] = {"stroke": style.PAPER, "strokeWidth": 3, "strokeJoin": "round"}
    if kind == "dense":
        place: dict[str, Any] = {"align": "right", "baseline": "bottom", "dx": -2, "dy": -3}
        x, color = alt.value("width"), style.DENSE
    else:
        place = {"align": "left", "baseline": "top", "dx": 4, "dy": 4}
        x, color = alt.value(0), style.SAID
    return [
        text.mark_text(**place, **more, color=color, aria=False).encode(x=x, y=y, text="label:N")
        for more in (seam, {})
    ]


def _legend(title: str | None, names: Sequence[str]) -> alt.Legend:
    return alt.Legend(
        title=title,
        values=list(names),
        # Long names go on in the next line, rather than out of the picture.
        columns=3 if sum(len(name) + 4 for name in names) > 80 else alt.Undefined,
        orient="top",
        direction="horizontal",
        titleOrient="left",
        offset=6,
        symbolOpacity=1,
    )


def fractions_axis(data: list[Datum], ticks: int) -> alt.X:
    """The fraction of layers dropped, as far as the data go."""
    most = most_dropped(data)
    return alt.X(
        "fraction:Q",
        title="fraction of layers dropped",
        # A little room, so that the first and last points are not cut in half.
        scale=alt.Scale(domain=[-0.02 * most, 1.02 * most], nice=False),
        axis=alt.Axis(format="~%", tickCount=ticks),
    )
