"""Losses against optimiser steps, while points were healed."""

from collections.abc import Sequence
from typing import TypeVar

import altair as alt

from layerprune.report import style
from layerprune.report.curves import Curve
from layerprune.report.entry import Entry, ranges
from layerprune.report.figure import MOST_NUMBERS, Figure, few, limited, make_figure
from layerprune.report.lines import (
    GAP,
    NUMBERS,
    Chart,
    Look,
    faceted,
    hue_of,
    look_of,
    rule_of,
    shape_of,
)
from layerprune.report.series import Datum, dense_lines

HEALING = "healing"
"""The figure's name, and that of its section in the page."""

MOST_LINES = 120
"""Points whose healing is drawn."""

_T = TypeVar("_T")

PANEL = 240
"""Width of a small panel, in pixels."""

MOST_LOSSES = 200
"""Training losses in one line; of more, means over steps in a row are shown."""

MOST_MEASURED = 60
"""Held-out losses in one line; of more, some are left out."""

MOST_DRAWN = 9_000
"""Losses of both kinds in the figure: lines of many points have fewer each."""


def trained(curves: Sequence[Curve]) -> list[tuple[Curve, Entry]]:
    """The points that were trained after the cut, by rising number of layers dropped."""
    found = [
        (curve, entry)
        for curve in curves
        for entry in curve.entries
        if entry.healing is not None and entry.healing.trained
    ]
    return sorted(found, key=lambda each: each[1].num_dropped)


def training_data(curves: Sequence[Curve]) -> list[Datum]:
    """One datum for each loss, of `kind` training or heldout, and the dense models' lines."""
    together: dict[int, list[tuple[Curve, Entry]]] = {}
    for curve, entry in trained(curves):
        together.setdefault(entry.num_dropped, []).append((curve, entry))
    data = []
    most = max(4, MOST_DRAWN // max(1, sum(map(len, together.values()))))
    for count, points in together.items():
        found = [datum for curve, entry in points for datum in _losses(curve, entry, most)]
        dense = ((curve, curve.dense.loss.nats) for curve, _ in points if curve.dense is not None)
        found += dense_lines(dense, "{:.3f}")
        panel = f"{count} layer{'' if count == 1 else 's'} dropped"
        data += [{**datum, "panel": panel} for datum in found]
    return data


def training_chart(
    data: list[Datum], look: Look, title: str, subtitle: list[str], columns: int
) -> Chart:
    """Training and held-out losses: a panel for each number of layers dropped."""
    small = len({datum["panel"] for datum in data}) > 1
    layers = _layers(data, look, small)
    head = alt.TitleParams(text=title, subtitle=subtitle)
    if small:
        panel = alt.layer(*layers).properties(width=PANEL, height=180)
        return faceted(panel, data, columns, PANEL).properties(title=head)
    return alt.layer(*layers, data=NUMBERS).properties(
        width=style.WIDTH, height=style.HEIGHT, title=head
    )


def thinned(items: Sequence[_T], most: int) -> list[_T]:
    """At most so many of `items` (two or more), evenly spread, the first and the last included."""
    if len(items) <= most:
        return list(items)
    return [items[round(at * (len(items) - 1) / (most - 1))] for at in range(most)]


def _losses(curve: Curve, entry: Entry, most: int) -> list[Datum]:
    healing = entry.healing
    assert healing is not None
    point = {
        "point": entry.key,
        "curve": curve.label,
        "hue": curve.hue,
        "mark": curve.mark,
        "layers": ranges(entry.dropped),
    }
    losses = [(each.step, each.loss) for each in healing.trained if each.loss is not None]
    size = -(-len(losses) // min(MOST_LOSSES, most - most // 3))
    training = [
        {
            "kind": "training",
            **point,
            "step": sum(step for step, _ in some) / len(some),
            "value": sum(loss for _, loss in some) / len(some),
            "over": len(some),
        }
        for some in (losses[at : at + size] for at in range(0, len(losses), size))
    ]
    heldout = [
        {"kind": "heldout", **point, "step": step, "value": value}
        for step, value in thinned(healing.measured, max(2, min(MOST_MEASURED, most // 3)))
    ]
    return training + heldout


def _layers(data: Sequence[Datum], look: Look, small: bool) -> list[alt.Chart]:
    """Training losses below, light; then the dense models, and held-out losses above all."""
    shown = list(dict.fromkeys(datum["hue"] for datum in data if datum["kind"] == "heldout"))
    hue, shape = hue_of(look, shown), shape_of(look, shown)
    ticks = 4 if small else 8
    last = int(max(datum["step"] for datum in data if datum["kind"] != "dense"))
    # Vega would put ticks between whole steps where there are few.
    few = {"values": list(range(last + 1))} if last < ticks else {"tickCount": ticks}
    x = alt.X("step:Q", title="optimiser step", axis=alt.Axis(format=",d", **few))
    values = [datum["value"] for datum in data]
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.1  # so that the dense model's line does not lie on the axis
    y = alt.Y(
        "value:Q",
        title="loss (nats per token)",
        scale=alt.Scale(domain=[low - room, high + room], zero=False, nice=True),
        axis=alt.Axis(tickCount=5 if small else 6),
    )
    base = alt.Chart()
    training = (
        base.transform_filter("datum.kind === 'training'")
        .mark_line(strokeWidth=1, strokeOpacity=0.4, aria=False)
        .encode(x=x, y=y, color=hue, detail="point:N")
    )
    heldout = base.transform_filter("datum.kind === 'heldout'")
    line = heldout.mark_line(strokeWidth=1.5 if small else 2).encode(
        x=x, y=y, color=hue, detail="point:N"
    )
    dot = heldout.mark_point(
        filled=True, opacity=1, size=26 if small else 60, aria=not small
    ).encode(x=x, y=y, color=hue, shape=shape, tooltip=_TOOLTIP)
    layers = [training, rule_of(look, y, "dense", small), line, dot]
    if small or look.several_models:
        return layers
    # On the left, where curves are still far above.
    name = (
        base.transform_filter("datum.kind === 'dense'")
        .mark_text(align="left", baseline="bottom", dx=4, dy=-3, color=style.DENSE)
        .encode(x=alt.value(0), y=y, text="label:N")
    )
    return [*layers, name]


_TOOLTIP = [
    alt.Tooltip("curve:N"),
    alt.Tooltip("panel:N", title="n"),
    alt.Tooltip("layers:N", title="which"),
    alt.Tooltip("step:Q", title="optimiser step"),
    alt.Tooltip("value:Q", title="held-out loss", format=".4f"),
]


def training_figure(curves: Sequence[Curve]) -> Figure:
    """Losses during healing, in panels by model and fraction."""
    look = look_of(curves)
    healed = [curve for curve in curves if trained([curve])]
    drawn = few(healed, MOST_LINES)
    data = training_data(drawn)
    recipes = ", ".join(dict.fromkeys(entry.heal for _, entry in trained(curves)))
    over = max(datum["over"] for datum in data if datum["kind"] == "training")
    means = f" (means over up to {over} steps)" if over > 1 else ""
    said = f"points: held-out loss, step 0 before training; light lines: what is trained on{means}"
    if len(drawn) < len(healed):
        said = f"{len(drawn)} of {len(healed)} healed curves; {said}"
    dashes = look.dashes(data)
    panels = len({datum["panel"] for datum in data})
    lines = [dashes] if dashes and (panels > 1 or look.several_models) else []
    return make_figure(
        HEALING,
        "Healing",
        f"Loss in nats per token against optimiser steps of {recipes}; {said}"
        f"{'; ' if dashes else ''}{dashes}.",
        f"Losses in nats per token during healing by {recipes}. {limited(_spoken(curves))}.",
        training_chart(data, look, f"Loss during healing: {recipes}", [said, *lines], 3),
        data,
        panel=PANEL + GAP if panels > 1 else 0,
    )


def _spoken(curves: Sequence[Curve]) -> list[str]:
    """Of each point: its held-out losses, as many as there is room for, and its training losses."""
    points = trained(curves)
    said = []
    for curve, entry in points:
        assert entry.healing is not None
        measured = thinned(entry.healing.measured, max(2, MOST_NUMBERS // len(points)))
        first, last = entry.healing.trained[0], entry.healing.trained[-1]
        losses = ", ".join(f"{value:.3f} at step {step}" for step, value in measured)
        said.append(
            f"{curve.label}, {entry.num_dropped} layers dropped: held-out {losses}; "
            f"training {first.loss:.3f} at step {first.step}, {last.loss:.3f} at step {last.step}"
        )
    return said
