"""The chart builder that figures share: lines with dots, axes, legends and panels."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from layerprune.analysis.curves import UNHEALED, Curve
from layerprune.report.figures import theme
from layerprune.report.figures.curve_data import Datum, greatest_fraction, num_curves

Chart = alt.LayerChart | alt.FacetChart

GAP = 26
"""Pixels between two small panels."""

MAX_ERROR_CURVES = 12
"""Curves in one figure whose errors can be told apart; with more, no errors are drawn.

The page draws them again when a reader leaves so few switched on.
"""

ERRORS_SHOWN = "errors_shown"
"""Vega-Lite's parameter for this."""

NO_DATA = alt.Data(values=[])
"""Placeholder until a chart is a specification: altair would validate each value of the data."""

DOTS = "dots"
"""The layer whose legends can be clicked."""

FRACTION = alt.Tooltip("fraction:Q", title="fraction removed", format=".3f")
LAYERS_DROPPED = alt.Tooltip("layers_dropped:Q", title="layers removed")


@dataclass(frozen=True)
class ChartStyle:
    """Colours, shapes and dashes that tell lines apart, equal in every figure of a study."""

    hues: list[str]
    """Names that have a colour each, in this order."""
    legend: str | None
    """Title of the colours' legend, if one word says what they are: model or strategy."""
    bases: Sequence[str] = ()
    """The name without its seed, for each of `hues`: equal ones are tints of one colour."""
    shapes: Sequence[str] = ()
    """Strategies that have a shape each, where colours stand for models.

    If empty, shapes repeat what colours say, for readers who are colour-blind.
    """
    recipes: Sequence[str] = ()
    """The healing recipes of curves, if any is healed."""
    some_unhealed: bool = True
    field: str = "hue"
    """The data's field with these names."""
    model: str = ""
    """The name of the model, if there is only one."""

    @property
    def several_models(self) -> bool:
        """True if colours stand for the models of curves."""
        return bool(self.shapes)

    def heading(self, title: str) -> str:
        """Return the title of a chart, with the model's name if there is only one."""
        return f"{self.model}: {title[:1].lower()}{title[1:]}" if self.model else title

    def channels(self, shown: Iterable[str] | None = None) -> tuple[alt.Color, alt.Shape]:
        """Return the colour and the shape of marks; legends list the hues `shown`, or all."""
        names = self.hues if shown is None else list(dict.fromkeys(shown))
        legend = _legend(self.legend, names) if len(self.hues) > 1 else None
        colors = theme.tints(self.bases or self.hues)
        scale = alt.Scale(domain=self.hues, range=colors)
        color = alt.Color(f"{self.field}:N", scale=scale, legend=legend)
        if not self.shapes:
            shapes = _scale(self.hues, theme.SHAPES)
            return color, alt.Shape(f"{self.field}:N", scale=shapes, legend=legend)
        legend = _legend("strategy", self.shapes) if len(self.shapes) > 1 else None
        return color, alt.Shape("mark:N", scale=_scale(self.shapes, theme.SHAPES), legend=legend)

    def healing_dash(self) -> alt.StrokeDash:
        """Return the dash of lines: healed ones are solid and the others dotted, as in the paper.

        Use it only where some curve is healed: dots make lines harder to read.
        """
        names = ["healed", "unhealed"]
        legend = _legend(None, names if self.some_unhealed else names[:1])
        legend.symbolSize = 500  # long enough to show the dots
        if len(self.recipes) == 1:  # with several, the colours' legend has their names
            label = json.dumps(f"healed: {self.recipes[0]}")
            legend.labelExpr = f"datum.value === 'healed' ? {label} : datum.label"
        scale = alt.Scale(domain=names, range=[theme.SOLID, theme.DOTTED])
        return alt.StrokeDash("healed:N", scale=scale, legend=legend)

    def highlight(self, strength: float, faint: float = 0.08) -> dict[str, Any]:
        """Return an opacity: `strength` of what is selected in the legends or of all, else `faint`.

        Use it for a fill or a stroke, not for the mark: a browser paints each mark with an opacity
        on a separate layer, and hundreds of them take seconds.
        """
        names = [name for name, _ in self._selections()]
        if not names:
            return {"value": strength}
        test = {"and": [{"param": name} for name in names]}
        return {"value": faint, "condition": {"test": test, "value": strength}}

    def params(self, data: Sequence[Datum]) -> list[dict[str, Any]]:
        """Return Vega-Lite's parameters: are errors drawn, and the clicks on legends."""
        return [
            {"name": ERRORS_SHOWN, "value": num_curves(data) <= MAX_ERROR_CURVES},
            *(
                {
                    "name": name,
                    "select": {"type": "point", "fields": [field]},
                    "bind": "legend",
                    "views": [DOTS],
                }
                for name, field in self._selections()
            ),
        ]

    def _selections(self) -> list[tuple[str, str]]:
        hues = [("hue_picked", "hue")] if len(self.hues) > 1 else []
        return hues + ([("mark_picked", "mark")] if len(self.shapes) > 1 else [])

    def dashes(self, data: Sequence[Datum]) -> str:
        """Return the meaning of the dashed lines of a figure, and a warning if colours repeat."""
        kinds = {datum["kind"] for datum in data}
        texts = []
        if "dense" in kinds:
            several = "coloured dashes: the dense models"
            texts.append(several if self.several_models else "black dashes: the dense model")
        if "chance" in kinds:
            texts.append("grey dashes: chance")
        if len(set(self.bases or self.hues)) > len(theme.HUES):
            texts.append(f"more than {len(theme.HUES)} colours repeat")
        return "; ".join(texts)


def study_style(curves: Sequence[Curve]) -> ChartStyle:
    """Return the style that every figure of a study shares."""
    several = len({curve.first.model.name for curve in curves}) > 1
    recipes = list(dict.fromkeys(curve.first.recipe for curve in curves))
    bases = {curve.hue: curve.base_hue for curve in curves}
    strategies = all(curve.hue == curve.mark for curve in curves)
    return ChartStyle(
        hues=list(bases),
        bases=list(bases.values()),
        legend="model" if several else "strategy" if strategies else None,
        shapes=list(dict.fromkeys(curve.mark for curve in curves)) if several else (),
        recipes=[recipe for recipe in recipes if recipe != UNHEALED],
        some_unhealed=UNHEALED in recipes,
        model="" if several else curves[0].first.model.name,
    )


def model_style(data: Sequence[Datum]) -> ChartStyle:
    """Return the style of a figure with one `line` for each model, not for each curve."""
    lines = list(dict.fromkeys(datum["line"] for datum in data))
    return ChartStyle(lines, "model", field="line")


def line_and_dots(
    encoding: dict[str, Any],
    tooltip: Sequence[alt.Tooltip],
    *,
    shape: Any = alt.Undefined,
    line: dict[str, Any] | None = None,
    dots: dict[str, Any] | None = None,
    where: Any = None,
    dots_where: Any = None,
    size: int = 50,
    width: float = 2,
    aria: Any = False,
    hollow: bool = False,
    **mark: Any,
) -> tuple[alt.Chart, alt.Chart]:
    """Return two layers: lines, and dots with tooltips.

    Both have the channels of `encoding`; `line` and `dots` are further channels of one. `where`
    and `dots_where` select rows, `mark` goes to both marks. `hollow` leaves the dots of unhealed
    points empty. Dots are not described one by one to screen readers unless `aria` is set: the
    figure's own description has the numbers.
    """
    lines = _rows(where).mark_line(strokeWidth=width, **mark).encode(**encoding, **line or {})
    points = _rows(where if dots_where is None else dots_where)
    points = points.mark_point(filled=not hollow, opacity=1, size=size, aria=aria, **mark)
    if hollow:
        # With the colour's legend: Vega-Lite merges the two, and warns where they differ.
        healed = {"test": "datum.healed === 'healed'", **encoding["color"].to_dict()}
        points = points.encode(fill=alt.FillValue(theme.BACKGROUND, condition=healed))
    return lines, points.encode(**encoding, shape=shape, tooltip=list(tooltip), **dots or {})


def error_bars(where: Any, encoding: dict[str, Any], width: float = 1.25, **mark: Any) -> alt.Chart:
    """Return a layer of bars from `low` to `high`."""
    bars = _rows(where).mark_rule(strokeWidth=width, aria=False, **mark)
    return bars.encode(**encoding, y=alt.Y("low:Q"), y2="high:Q")


def reference_lines(
    style: ChartStyle, y: alt.Y, kind: Literal["chance", "dense"], small: bool
) -> alt.Chart:
    """Return a layer of dashed lines: the dense models, or chance."""
    mark = _rows(f"datum.kind === '{kind}'").mark_rule(
        strokeDash=[4, 3] if small else theme.DASHED,
        strokeWidth=1.25,
        color=theme.CHANCE if kind == "chance" else theme.DENSE,
    )
    colored = kind == "dense" and style.several_models
    return mark.encode(y=y, color="hue:N" if colored else alt.Undefined)


def build(
    layers: Sequence[alt.Chart],
    data: Sequence[Datum],
    title: str,
    subtitle: Sequence[str],
    *,
    width: int = theme.WIDTH,
    height: int = theme.HEIGHT,
    columns: int = 0,
    independent: Literal["x", "y"] | None = None,
) -> Chart:
    """Return layers as one panel, or with `columns` as a panel for each `panel` of the data.

    Panels share their scales, except for the `independent` one.
    """
    heading = alt.TitleParams(text=title, subtitle=list(subtitle))
    if not columns:
        whole = alt.layer(*layers, data=NO_DATA)
        return whole.properties(width=width, height=height, title=heading)
    header = alt.Header(title=None, labelAnchor="start", labelLimit=width, labelPadding=4)
    names = list(dict.fromkeys(datum["panel"] for datum in data))
    chart = (
        alt.layer(*layers)
        .properties(width=width, height=height)
        .facet(
            data=NO_DATA,
            facet=alt.Facet("panel:N", sort=names, header=header),
            columns=columns,
            spacing={"row": 18, "column": GAP},
        )
        .resolve_axis(x="independent")  # a shared one would stand where the last row has no panel
        .properties(title=heading)
    )
    return chart.resolve_scale(**{independent: "independent"}) if independent else chart


def panel_title(text: str) -> alt.TitleParams:
    """Return the title of one of several panels."""
    return alt.TitleParams(text=text, fontSize=13, fontWeight="normal", offset=6)


def fraction_axis(data: Sequence[Datum], ticks: int) -> alt.X:
    """Return the axis of fractions, as far as the data go."""
    end = greatest_fraction(data)
    return alt.X(
        "fraction:Q",
        title="fraction of layers removed",
        # A margin, or the first and last dots would be cut in half.
        scale=alt.Scale(domain=[-0.02 * end, 1.02 * end], nice=False),
        axis=alt.Axis(format="~%", tickCount=ticks),
    )


def percent_axis(column: str, title: str, ticks: int, **scale: Any) -> alt.Y:
    """Return an axis of shares in percent."""
    # Percent signs at every tick would only repeat the title.
    labels = alt.Axis(labelExpr="format(datum.value * 100, '.3~g')", tickCount=ticks)
    return alt.Y(f"{column}:Q", title=title, scale=alt.Scale(**scale), axis=labels)


def _rows(where: Any) -> alt.Chart:
    return alt.Chart() if where is None else alt.Chart().transform_filter(where)


def _scale(names: Sequence[str], values: Sequence[str]) -> alt.Scale:
    repeated = [values[index % len(values)] for index in range(len(names))]
    return alt.Scale(domain=list(names), range=repeated)


def _legend(title: str | None, names: Sequence[str]) -> alt.Legend:
    return alt.Legend(
        title=title,
        values=list(names),
        # Long names would leave the picture in a single line.
        columns=3 if sum(len(name) + 4 for name in names) > 80 else alt.Undefined,
        orient="top",
        direction="horizontal",
        titleOrient="left",
        offset=6,
        symbolOpacity=1,
    )
