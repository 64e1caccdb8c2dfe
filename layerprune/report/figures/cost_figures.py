"""Training cost, model size, and inference speed against the fraction of layers removed."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

import altair as alt

from layerprune.analysis.curves import JOINT, Curve
from layerprune.config.registry import quantization_after
from layerprune.record.point import Point
from layerprune.record.speed import MedianRange
from layerprune.report.figures import chart, theme
from layerprune.report.figures.curve_data import Datum, curve_names
from layerprune.report.figures.figure import Figure, described, make_figure
from layerprune.report.tables.speed_table import ideal_ratio, timed_points

WIDTH = 290
"""Width of one of two panels side by side, in pixels."""

TIME = "seconds per 1,000 tokens"
MEMORY = "peak memory (GiB)"

PARAMETERS = "parameters (millions)"
WEIGHTS = "weights (GiB)"

SPEED = "speed"
"""Name of the figure of speed, and of its section in the page."""

PREFILL = "prefill: times as fast as the dense model"
DECODE = "decoding: times as fast as the dense model"
PEAK = "peak memory of inference (GiB)"

MEASURED = "measured"
BY_OPERATIONS = "by operations"
BY_LAYERS = "by layers"

TOOLTIP = [
    alt.Tooltip("curve:N"),
    chart.FRACTION,
    chart.LAYERS_DROPPED,
    alt.Tooltip("panel:N", title="what"),
    alt.Tooltip("value:Q", format=".3f"),
]


def training_cost_data(curves: Sequence[Curve]) -> list[Datum]:
    """Return time and memory of each trained point, for curves trained at several fractions."""
    data = []
    for curve in curves:
        rows: list[Datum] = [
            {
                "kind": "point",
                "panel": panel,
                **curve_names(curve),
                "fraction": point.plan.fraction,
                "layers_dropped": point.num_dropped,
                "value": value * scale,
            }
            for point in curve.points
            if (healing := point.healing) is not None
            and healing.seconds_per_token is not None
            and healing.together is None
            for panel, value, scale in (
                (TIME, healing.seconds_per_token, 1000),
                (MEMORY, healing.peak_memory_bytes, 1 / 2**30),
            )
            if value is not None
        ]
        if len({datum["fraction"] for datum in rows}) > 1:
            data += rows
    return sorted(data, key=lambda datum: str(datum["panel"]), reverse=True)


def training_cost_figure(curves: Sequence[Curve]) -> Figure | None:
    """Return the figure of a training step's time, at the left, and memory; None without any."""
    if not (data := training_cost_data(curves)):
        return None
    title = "Cost of a training step"
    caption = "median over steps; memory: the peak of the process, or of its GPU, while healing"
    style = chart.study_style(curves)
    channels = style.channels(datum["hue"] for datum in data)
    lines = {"detail": "curve:N"}
    heading = style.heading(title)
    return make_figure(
        "cost",
        title,
        f"Time and memory of healing against the fraction of layers removed; {caption}.",
        f"{title}; {caption}.",
        described(data, "{panel}, {curve}, {layers_dropped} layers removed: {value:.3g}"),
        _two_panels(data, heading, [caption], channels, TOOLTIP, line=lines, aria=alt.Undefined),
        data,
    )


def size_data(curves: Sequence[Curve]) -> list[Datum]:
    """Return the size of each model at each fraction, for models with several fractions."""
    sizes: dict[tuple[str, str], dict[tuple[float, int], Point]] = defaultdict(dict)
    for curve in curves:
        for point in curve.points:
            size = point.plan.fraction, point.model.parameters_kept
            sizes[point.model.name, weight_type(point)][size] = point
    lines = {line: of for line, of in sizes.items() if len({fraction for fraction, _ in of}) > 1}
    models = [model for model, _ in lines]
    return [
        {
            "kind": "point",
            "model": model,
            "held": held,
            "fraction": point.plan.fraction,
            "layers_dropped": point.num_dropped,
            "parameters": point.model.parameters_kept,
            "bytes": point.model.weight_bytes,
            # The type of weights where a model has several.
            "line": model if models.count(model) == 1 else f"{model}{JOINT}{held}",
            "panel": panel,
            "value": getattr(point.model, field) / unit,
        }
        for panel, field, unit in (
            (PARAMETERS, "parameters_kept", 1e6),
            (WEIGHTS, "weight_bytes", 2**30),
        )
        for (model, held), points in lines.items()
        for _, point in sorted(points.items(), key=itemgetter(0))
    ]


def size_figure(curves: Sequence[Curve]) -> Figure | None:
    """Return the figure of the remaining parameters, at the left, and of their bytes, if any."""
    if not (data := size_data(curves)):
        return None
    title = "Size of the remaining model"
    caption = "counted, not measured: remaining parameters, and bytes of these weights as stored"
    tooltip = [
        alt.Tooltip("model:N"),
        chart.FRACTION,
        chart.LAYERS_DROPPED,
        alt.Tooltip("parameters:Q", format=","),
        alt.Tooltip("bytes:Q", title="bytes of weights", format=","),
        alt.Tooltip("held:N", title="stored as"),
    ]
    channels = chart.model_style(data).channels()
    heading = chart.study_style(curves).heading(title)
    return make_figure(
        "size",
        title,
        f"Parameters and weights against the fraction of layers removed; {caption}.",
        f"{title}; {caption}.",
        described(data, "{panel}, {line}, {layers_dropped} layers removed: {value:.4g}"),
        _two_panels(data, heading, [caption], channels, tooltip, height=200, size=40),
        data,
    )


def weight_type(point: Point) -> str:
    """Return the type in which the weights of a point are stored: float32, nf4, ..."""
    if (healed := quantization_after(point.recipe, None)) is not None:
        return healed.value
    quantization = point.settings.get("model.quantization", "not set")
    if quantization != "not set":
        return quantization
    return point.settings.get("model.dtype", "not set")


def speed_data(curves: Sequence[Curve]) -> list[Datum]:
    """Return the measured speed of each point, and the speed by operations and layers alone."""
    data: list[Datum] = [
        {
            "kind": "point",
            "panel": panel,
            "what": what,
            "curve": curve.label,
            "line": f"{curve.label}: {what}",
            "hue": curve.hue,
            "mark": curve.mark,
            "fraction": point.plan.fraction,
            "layers_dropped": point.num_dropped,
            "value": value,
            "low": ends[0] if ends else value,
            "high": ends[1] if ends else value,
        }
        for curve, point, speed in timed_points(curves)
        for panel, what, value, *ends in (
            *_speedups(PREFILL, speed.prefill_ratio, speed.prefill_by_flops, ideal_ratio(point)),
            *_speedups(DECODE, speed.decode_ratio, speed.decode_by_flops, ideal_ratio(point)),
            (WEIGHTS, MEASURED, speed.pruned.weight_bytes / 2**30),
            (PEAK, MEASURED, speed.pruned.peak_bytes / 2**30),
        )
    ]
    return sorted(data, key=lambda datum: (PREFILL, DECODE, WEIGHTS, PEAK).index(datum["panel"]))


def speed_figure(curves: Sequence[Curve]) -> Figure | None:
    """Return the figure of prefill and decoding speed, above, and of weights and memory, if any."""
    if not (data := speed_data(curves)):
        return None
    title = "Speed and memory"
    conditions = "; ".join(dict.fromkeys(speed.conditions for _, _, speed in timed_points(curves)))
    lines = "lines: measured, and what fewer operations or fewer layers alone would give"
    dash = alt.StrokeDash(
        "what:N",
        scale=alt.Scale(
            domain=[MEASURED, BY_OPERATIONS, BY_LAYERS],
            range=[theme.SOLID, theme.DASHED, theme.DOTTED],
        ),
        legend=alt.Legend(title=None, orient="top", symbolSize=300),
    )
    tooltip = [
        *TOOLTIP,
        alt.Tooltip("low:Q", title="least", format=".3f"),
        alt.Tooltip("high:Q", title="greatest", format=".3f"),
    ]
    style = chart.study_style(curves)
    channels = style.channels(datum["hue"] for datum in data)
    return make_figure(
        SPEED,
        title,
        f"Measured against the fraction of layers removed: {conditions}. Bars: the range of the "
        f"rounds. {lines.capitalize()}: the head and the embeddings do not shrink.",
        f"{title}: {conditions}.",
        described(data, "{panel}, {curve}, {layers_dropped} layers removed: {value:.3g} {what}"),
        _two_panels(
            data,
            style.heading(title),
            [conditions, lines],
            channels,
            tooltip,
            line={"detail": "line:N", "strokeDash": dash},
            dots_where=alt.FieldEqualPredicate(field="what", equal=MEASURED),
            bars=True,
        ),
        data,
    )


def _two_panels(
    data: list[Datum],
    title: str,
    subtitle: list[str],
    channels: tuple[alt.Color, alt.Shape],
    tooltip: list[alt.Tooltip],
    *,
    height: int = 220,
    bars: bool = False,
    **options: Any,
) -> chart.Chart:
    """Return the chart of `data` in two columns, each panel from 0; `options` of lines and dots."""
    x = chart.fraction_axis(data, 5)
    color, shape = channels
    scale = alt.Scale(zero=True)
    y = alt.Y("value:Q", title=None, scale=scale, axis=alt.Axis(tickCount=5))
    line, dots = chart.line_and_dots(
        {"x": x, "y": y, "color": color}, tooltip, shape=shape, **options
    )
    errors = [chart.error_bars(options["dots_where"], {"x": x, "color": color})] if bars else []
    return chart.build(
        [line, *errors, dots],
        data,
        f"{title} as layers are removed",
        subtitle,
        width=WIDTH,
        height=height,
        columns=2,
        independent="y",
    )


def _speedups(
    panel: str, ratio: MedianRange, operations: float, layers: float
) -> Iterator[tuple[Any, ...]]:
    yield panel, MEASURED, ratio.median, ratio.low, ratio.high
    yield panel, BY_OPERATIONS, operations
    yield panel, BY_LAYERS, layers
