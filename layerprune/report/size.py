"""How small models become: parameters that stay and what their weights take, by the fraction."""

import re
from collections.abc import Container, Sequence

import altair as alt

from layerprune.config.schema import held_after
from layerprune.report.cost import WIDTH
from layerprune.report.curves import JOINT, Curve
from layerprune.report.entry import Entry
from layerprune.report.figure import Figure, limited, make_figure
from layerprune.report.lines import GAP, Chart, faceted, fractions_axis, told_apart
from layerprune.report.series import Datum

PARAMETERS = "parameters (millions)"
WEIGHTS = "weights (GiB)"


def size_data(curves: Sequence[Curve]) -> list[Datum]:
    """The sizes of each model at each fraction that it was cut to, of models with several."""
    found: dict[str, dict[tuple[float, int], Datum]] = {}
    for curve in curves:
        for entry in curve.entries:
            mine = found.setdefault(f"{entry.model} · {held(entry)}", {})
            mine[entry.fraction, entry.parameters] = {
                "kind": "point",
                "model": entry.model,
                "held": held(entry),
                "fraction": entry.fraction,
                "layers_dropped": entry.num_dropped,
                "parameters": entry.parameters,
                "bytes": _weight_bytes(entry),
            }
    sizes = [
        mine[key]
        for mine in found.values()
        if len({at for at, _ in mine}) > 1
        for key in sorted(mine)
    ]
    models = {(datum["model"], datum["held"]) for datum in sizes}
    several = {model for model, _ in models if sum(model == each for each, _ in models) > 1}
    return [
        {**datum, "line": _line(datum, several), "panel": panel, "value": value}
        for panel in (PARAMETERS, WEIGHTS)
        for datum in sizes
        if (value := _shown(datum, panel)) is not None
    ]


def size_chart(data: list[Datum], title: str, subtitle: list[str]) -> Chart:
    """Two panels: parameters on the left, bytes of weights on the right."""
    lines = list(dict.fromkeys(datum["line"] for datum in data))
    color, shape = told_apart("line", lines)
    x = fractions_axis(data, 5)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5))
    line = alt.Chart().mark_line(strokeWidth=2).encode(x=x, y=y, color=color)
    dot = (
        alt.Chart()
        .mark_point(filled=True, opacity=1, size=40, aria=False)
        .encode(x=x, y=y, color=color, shape=shape, tooltip=_TOOLTIP)
    )
    panel = alt.layer(line, dot).properties(width=WIDTH, height=200)
    return (
        faceted(panel, data, 2, WIDTH)
        .resolve_scale(y="independent")
        .properties(title=alt.TitleParams(text=title, subtitle=subtitle))
    )


def held(entry: Entry) -> str:
    """The type of the numbers in which the weights are held: float32, nf4, ..."""
    if (healed := held_after(entry.heal, None)) is not None:
        return healed.value
    said = entry.settings.get("model.quantization", "not set")
    return entry.settings.get("model.dtype", "not set") if said == "not set" else said


def _line(datum: Datum, several: Container[str]) -> str:
    """The model's name, and how it is held where that is not always so."""
    return JOINT.join([datum["model"], *([datum["held"]] if datum["model"] in several else [])])


def _weight_bytes(entry: Entry) -> int | None:
    """What the weights take; None where that was not counted and part of them are in few bits."""
    if entry.weight_bytes is not None:
        return entry.weight_bytes
    bits = re.fullmatch(r"b?float(\d+)", held(entry))
    return None if bits is None else entry.parameters * int(bits[1]) // 8


def _shown(datum: Datum, panel: str) -> float | None:
    if panel == PARAMETERS:
        return datum["parameters"] / 1e6
    return None if datum["bytes"] is None else datum["bytes"] / 2**30


_TOOLTIP = [
    alt.Tooltip("model:N"),
    alt.Tooltip("fraction:Q", title="fraction dropped", format=".3f"),
    alt.Tooltip("layers_dropped:Q", title="layers dropped"),
    alt.Tooltip("parameters:Q", format=","),
    alt.Tooltip("bytes:Q", title="bytes of weights", format=","),
    alt.Tooltip("held:N", title="held as"),
]


def size_figure(data: list[Datum]) -> Figure:
    """Parameters and weights of what stays, in two panels."""
    title = "Size of what stays"
    said = (
        "counted, not measured: parameters without the dropped layers, and the bytes that they "
        "take as they are held"
    )
    spoken = [
        f"{datum['panel']}, {datum['line']}, {datum['layers_dropped']} layers dropped: "
        f"{datum['value']:.4g}"
        for datum in data
    ]
    return make_figure(
        "size",
        title,
        f"Parameters and weights against the fraction of layers dropped; {said}.",
        f"{title}; {said}. {limited(spoken)}.",
        size_chart(data, f"{title} as layers are dropped", [said]),
        data,
        panel=WIDTH + GAP,
    )
