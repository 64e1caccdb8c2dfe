"""Curves against the fraction of layers dropped: accuracy, accuracy by subject, held-out loss."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from layerprune.record.point import HELDOUT
from layerprune.report import style
from layerprune.report.curves import ACCURACY, NAMED, UNHEALED, Curve, Task
from layerprune.report.entry import Entry, Value, ranges

Datum = dict[str, Any]

PANEL = 190
"""Width of a small panel, in pixels."""


@dataclass(frozen=True)
class Look:
    """How curves are told apart: by colour and shape, and by line where some are healed."""

    hues: list[str]
    title: str
    marks: list[str]
    healed: bool

    @property
    def several_models(self) -> bool:
        """Whether colours stand for models, so that shapes have to tell strategies apart."""
        return self.title == "model"


def look_of(curves: Sequence[Curve]) -> Look:
    """The look that every figure of a study shares."""
    models = len({curve.first.model for curve in curves}) > 1
    return Look(
        hues=list(dict.fromkeys(curve.hue for curve in curves)),
        title="model" if models else "strategy",
        marks=list(dict.fromkeys(curve.mark for curve in curves)),
        healed=any(curve.first.heal != UNHEALED for curve in curves),
    )


def accuracy_data(curves: Iterable[Curve], task: str, panel: str = "") -> list[Datum]:
    """One datum for each point that has an accuracy on `task`, then the dense models and chance."""
    curves = list(curves)
    data = []
    for curve in curves:
        for entry in curve.entries:
            if (value := _accuracy(entry, task)) is not None:
                data.append(_point(curve, entry, task, value, entry.answers[task].num_samples))
    dense = [(curve, _accuracy(curve.dense, task)) for curve in curves if curve.dense is not None]
    data += _dense(((curve, value) for curve, value in dense if value is not None), "{:.1%}")
    chances = sorted(
        {
            answers.chance
            for curve in curves
            for entry in curve.entries
            if (answers := entry.answers.get(task)) is not None and answers.chance is not None
        }
    )
    data += [
        {"kind": "chance", "value": chance, "label": f"guessing evenly {chance:.1%}"}
        for chance in chances
    ]
    return [{**datum, "panel": panel} for datum in data]


def loss_data(curves: Iterable[Curve]) -> list[Datum]:
    """One datum for each point, then the dense models and evenly guessed tokens."""
    curves = list(curves)
    data = [
        _point(curve, entry, HELDOUT, entry.loss.normalised, entry.loss.num_sequences)
        for curve in curves
        for entry in curve.entries
    ]
    dense = ((curve, curve.dense.loss.normalised) for curve in curves if curve.dense is not None)
    data += _dense(dense, "{:.3f}")
    return [*data, {"kind": "chance", "value": 1.0, "label": "guessing evenly 1.0"}]


def accuracy_chart(
    data: list[Datum], look: Look, task: Task, subtitle: list[str]
) -> alt.LayerChart:
    """Accuracy on one task or group."""
    low, high = _span(data)
    axis = alt.Y(
        "value:Q",
        title="accuracy (%)",
        scale=alt.Scale(domain=[math.floor(low * 10) / 10, math.ceil(high * 10) / 10]),
        # Percent signs at every tick would only repeat the title.
        axis=alt.Axis(labelExpr="format(datum.value * 100, '.3~g')", tickCount=6),
    )
    title = f"Accuracy on {task.name} as layers are dropped"
    return _single(data, look, axis, title, subtitle)


def loss_chart(data: list[Datum], look: Look, subtitle: list[str]) -> alt.LayerChart:
    """Loss on held-out text, divided by ln V."""
    _, high = _span(data)
    axis = alt.Y(
        "value:Q",
        title="held-out loss / ln V",
        scale=alt.Scale(domain=[0, max(1.05, high * 1.03)]),
        axis=alt.Axis(tickCount=6),
    )
    return _single(data, look, axis, "Held-out loss as layers are dropped", subtitle)


def subjects_chart(
    data: list[Datum], look: Look, task: Task, subtitle: list[str], columns: int
) -> alt.FacetChart:
    """Accuracy on each task of a group, in small panels with the same scales."""
    low, high = _span(data)
    axis = alt.Y(
        "value:Q",
        title="accuracy (%)",
        scale=alt.Scale(domain=[math.floor(low * 10) / 10, math.ceil(high * 10) / 10]),
        axis=alt.Axis(labelExpr="format(datum.value * 100, '.3~g')", tickCount=4),
    )
    layers = _layers(look, axis, _fractions(data, 3), small=True)
    panel = alt.layer(*layers).properties(width=PANEL, height=140)
    header = alt.Header(title=None, labelAnchor="start", labelLimit=PANEL)
    return panel.facet(
        data=alt.Data(values=data),
        facet=alt.Facet(
            "panel:N", sort=list(dict.fromkeys(datum["panel"] for datum in data)), header=header
        ),
        columns=columns,
    ).properties(title=_title(f"Accuracy on each subject of {task.name}", subtitle))


def _single(
    data: list[Datum], look: Look, axis: alt.Y, title: str, subtitle: list[str]
) -> alt.LayerChart:
    layers = _layers(look, axis, _fractions(data, 10), small=False)
    return alt.layer(*layers, data=alt.Data(values=data)).properties(
        width=style.WIDTH, height=style.HEIGHT, title=_title(title, subtitle)
    )


def _layers(look: Look, y: alt.Y, x: alt.X, small: bool) -> list[alt.Chart]:
    """Chance and dense lines below, then curves, error bars and points."""
    hue = alt.Color(
        "hue:N",
        scale=alt.Scale(
            domain=look.hues,
            range=[style.HUES[at % len(style.HUES)] for at in range(len(look.hues))],
        ),
        legend=_legend(look.title) if len(look.hues) > 1 else None,
    )
    # With one model, shape says again what colour says, for those who see colours less well.
    field, domain = ("mark", look.marks) if look.several_models else ("hue", look.hues)
    own = look.several_models and len(domain) > 1
    shape = alt.Shape(
        f"{field}:N",
        scale=alt.Scale(
            domain=domain,
            range=[style.SHAPES[at % len(style.SHAPES)] for at in range(len(domain))],
        ),
        legend=_legend("strategy" if own else look.title) if own or len(look.hues) > 1 else None,
    )
    base = alt.Chart()
    curve = base.transform_filter("datum.kind === 'point' && datum.joined")
    line = curve.mark_line(strokeWidth=1.5 if small else 2).encode(
        x=x, y=y, color=hue, detail="curve:N"
    )
    if look.healed:
        # As in the paper: healed curves solid, the others dotted. Where none is healed, all are
        # solid: dots would only make them harder to read.
        dash = alt.Scale(domain=["healed", "not healed"], range=[style.SOLID, style.DOTTED])
        line = line.encode(strokeDash=alt.StrokeDash("healed:N", scale=dash, legend=_legend(None)))
    point = base.transform_filter("datum.kind === 'point'")
    bar = point.mark_rule(strokeWidth=1 if small else 1.25, opacity=0.55).encode(
        x=x, y=alt.Y("low:Q", title=y.title), y2="high:Q", color=hue
    )
    dot = point.mark_point(filled=True, opacity=1, size=22 if small else 60).encode(
        x=x, y=y, color=hue, shape=shape, tooltip=_TOOLTIP
    )
    rules = [_rule(look, y, kind, small) for kind in ("chance", "dense")]
    labels = [] if small else [_label(y, kind) for kind in ("chance", "dense")]
    return [*rules, bar, line, dot, *labels]


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


def _rule(look: Look, y: alt.Y, kind: Literal["chance", "dense"], small: bool) -> alt.Chart:
    rule = alt.Chart().transform_filter(f"datum.kind === '{kind}'")
    mark = rule.mark_rule(
        strokeDash=style.DASHED if not small else [4, 3],
        strokeWidth=1.25,
        color=style.CHANCE if kind == "chance" else style.DENSE,
    )
    if kind == "dense" and look.several_models:
        return mark.encode(y=y, color="hue:N")
    return mark.encode(y=y)


def _label(y: alt.Y, kind: Literal["chance", "dense"]) -> alt.Chart:
    """The name of a dashed line: the dense one's on the right, where curves have come down."""
    text = alt.Chart().transform_filter(f"datum.kind === '{kind}'")
    if kind == "dense":
        mark = text.mark_text(align="right", baseline="bottom", dx=-2, dy=-3, color=style.DENSE)
        return mark.encode(x=alt.value("width"), y=y, text="label:N")
    mark = text.mark_text(align="left", baseline="top", dx=4, dy=4, color="#666666")
    return mark.encode(x=alt.value(0), y=y, text="label:N")


def _legend(title: str | None) -> alt.Legend:
    return alt.Legend(title=title, orient="top", direction="horizontal", offset=6)


def _title(title: str, subtitle: list[str]) -> alt.TitleParams:
    return alt.TitleParams(text=title, subtitle=subtitle)


def _fractions(data: list[Datum], ticks: int) -> alt.X:
    most = max((datum["fraction"] for datum in data if datum["kind"] == "point"), default=0.0)
    return alt.X(
        "fraction:Q",
        title="fraction of layers dropped",
        # A little room, so that the last points are not cut in half.
        scale=alt.Scale(domain=[0, max(most, 0.05) * 1.02], nice=False),
        axis=alt.Axis(format=".0%", tickCount=ticks),
    )


def _span(data: list[Datum]) -> tuple[float, float]:
    """The least and the greatest number that a figure has to show."""
    low = [datum.get("low", datum["value"]) for datum in data]
    high = [datum.get("high", datum["value"]) for datum in data]
    return max(0.0, min(low)), max(high)


def _accuracy(entry: Entry, task: str) -> Value | None:
    return entry.answers[task].measures.get(ACCURACY) if task in entry.answers else None


def _point(curve: Curve, entry: Entry, task: str, value: Value, num_samples: int) -> Datum:
    stderr = 0.0 if value.stderr is None else value.stderr
    return {
        "kind": "point",
        "curve": curve.label,
        "hue": curve.hue,
        "mark": curve.mark,
        "healed": "not healed" if entry.heal == UNHEALED else "healed",
        "joined": entry.strategy != NAMED,
        "task": task,
        "fraction": entry.fraction,
        "layers_dropped": entry.num_dropped,
        "layers": ranges(entry.dropped),
        "value": value.value,
        "stderr": value.stderr,
        "low": value.value - stderr,
        "high": value.value + stderr,
        "num_samples": num_samples,
    }


def _dense(found: Iterable[tuple[Curve, Value]], form: str) -> list[Datum]:
    """A dashed line for each dense model; one that several curves share is drawn once."""
    lines: dict[str, Datum] = {}
    found = list(found)
    several = len({curve.first.model for curve, _ in found}) > 1
    for curve, value in found:
        name = f"{curve.first.model}, dense" if several else "dense model"
        lines[curve.first.ground] = {
            "kind": "dense",
            "hue": curve.hue,
            "value": value.value,
            "label": f"{name} {form.format(value.value)}",
        }
    return list(lines.values())
