"""Losses against optimiser steps, while points were healed."""

from collections.abc import Sequence

import altair as alt

from layerprune.analysis.curves import Curve
from layerprune.config.registry import has_own_loss
from layerprune.record.point import Point, layer_ranges
from layerprune.report.figures import chart, theme
from layerprune.report.figures.chart import ChartStyle
from layerprune.report.figures.curve_data import Datum, curve_names, dense_lines
from layerprune.report.figures.figure import (
    MAX_NUMBERS,
    Figure,
    described,
    limited,
    make_figure,
    sample_curves,
)

HEALING, TRAINING = "healing", "training"
"""Names of the figures, and of their sections in the page."""

MAX_POINTS = 120
"""Points of curves whose healing is drawn."""

MAX_TRAINING = 200
"""Training losses in one line; of more, means over consecutive steps are drawn."""

MAX_HELDOUT = 60
"""Held-out losses in one line; of more, some are left out."""

MAX_LOSSES = 9_000
"""Losses of both kinds in the figure: with many lines, each has fewer."""

TOOLTIP = [
    alt.Tooltip("curve:N"),
    alt.Tooltip("panel:N", title="n"),
    alt.Tooltip("layers:N", title="which"),
    alt.Tooltip("step:Q", title="optimiser step"),
    alt.Tooltip("value:Q", title="held-out loss", format=".4f"),
]


def trained_points(curves: Sequence[Curve]) -> list[tuple[Curve, Point]]:
    """Return the points that were trained after pruning, by rising number of layers removed.

    Of points that one training healed together, the first stands for all.
    """
    trained: dict[object, tuple[Curve, Point]] = {}
    for curve in curves:
        for point in curve.points:
            if point.healing is not None and point.healing.trained_steps:
                trained.setdefault((id(curve), point.healing.together or point.key), (curve, point))
    return sorted(trained.values(), key=lambda pair: pair[1].num_dropped)


def _cuts(point: Point) -> str:
    """Return the numbers of removed layers that the point's training healed."""
    assert point.healing is not None
    together = point.healing.together
    if together is not None:
        return f"{together[0]} to {together[-1]} layers removed"
    count = point.num_dropped
    return f"{count} layer{'' if count == 1 else 's'} removed"


def healing_data(curves: Sequence[Curve]) -> list[Datum]:
    """Return a row for each loss, of `kind` training or heldout, and the dense models' lines."""
    panels: dict[str, list[tuple[Curve, Point]]] = {}
    trained = trained_points(curves)
    for curve, point in trained:
        panels.setdefault(_cuts(point), []).append((curve, point))
    data = []
    max_losses = max(4, MAX_LOSSES // max(1, len(trained)))
    for panel, points in panels.items():
        rows = [
            datum
            for curve, point in points
            for datum in _losses(curve, point, max_losses)
            if datum["kind"] == "heldout" or not has_own_loss(point.recipe)
        ]
        dense = ((curve, curve.dense.loss.nats) for curve, _ in points if curve.dense is not None)
        rows += dense_lines(dense, "{:.3f}")
        data += [{**datum, "panel": panel} for datum in rows]
    return data


def healing_figure(curves: Sequence[Curve]) -> Figure | None:
    """Return the figure of losses during healing, a panel for each number of layers, if any."""
    style = chart.study_style(curves)
    healed = [curve for curve in curves if trained_points([curve])]
    if not healed:
        return None
    drawn = sample_curves(healed, MAX_POINTS)
    data = healing_data(drawn)
    several = len({datum["panel"] for datum in data}) > 1
    recipes = ", ".join(dict.fromkeys(point.recipe for _, point in trained_points(curves)))
    caption = "points: held-out loss, step 0 before training"
    if any(datum["kind"] == "training" for datum in data):
        caption += f"; light lines: training loss{_means(data)}"
    if len(drawn) < len(healed):
        caption = f"{len(drawn)} of {len(healed)} healed curves; {caption}"
    dashes = style.dashes(data)
    return make_figure(
        HEALING,
        "Healing",
        f"Loss in nats per token against optimiser steps of {recipes}; {caption}"
        f"{'; ' if dashes else ''}{dashes}.",
        f"Losses in nats per token during healing by {recipes}.",
        limited(_numbers(curves)),
        chart.build(
            _layers(data, style, several),
            data,
            style.heading(f"Loss during healing: {recipes}"),
            [caption, *([dashes] if dashes and (several or style.several_models) else [])],
            width=240 if several else theme.WIDTH,
            height=180 if several else theme.HEIGHT,
            columns=3 if several else 0,
        ),
        data,
    )


def training_figure(curves: Sequence[Curve]) -> Figure | None:
    """Return the figure of training losses other than the text's, with a panel for each recipe.

    Their scales differ from each other's and from the held-out loss's. None if there are none.
    """
    style = chart.study_style(curves)
    data = [
        {**datum, "panel": point.recipe}
        for curve, point in trained_points(sample_curves(curves, MAX_POINTS))
        if has_own_loss(point.recipe)
        for datum in _losses(curve, point, MAX_TRAINING)
        if datum["kind"] == "training"
    ]
    if not data:
        return None
    color, _ = style.channels(datum["hue"] for datum in data)
    x = alt.X("step:Q", title="optimiser step", axis=alt.Axis(format=",d", tickCount=4))
    y = alt.Y("value:Q", title="training loss", scale=alt.Scale(zero=False))
    line = alt.Chart().mark_line(strokeWidth=1.5, aria=False)
    line = line.encode(x=x, y=y, color=color, detail="point:N", tooltip=TOOLTIP[:4])
    recipes = ", ".join(dict.fromkeys(datum["panel"] for datum in data))
    caption = f"each recipe minimises its own loss; scales differ{_means(data)}"
    title = f"Training loss: {recipes}"
    ends = [datum for datum in data if datum["step"] in (1, data[-1]["step"])]
    return make_figure(
        TRAINING,
        "Training loss",
        f"Loss that each recipe minimises against optimiser steps; {caption}.",
        f"{title}; {caption}.",
        described(ends, "{curve}, {panel}, step {step:g}: {value:.3f}"),
        chart.build(
            [line], data, style.heading(title), [caption],
            width=240, height=180, columns=3, independent="y",
        ),
        data,
    )  # fmt: skip


def _means(data: Sequence[Datum]) -> str:
    longest = max(datum["over"] for datum in data if datum["kind"] == "training")
    return f" (means over up to {longest} steps)" if longest > 1 else ""


def thinned(losses: Sequence[tuple[int, float]], most: int) -> Sequence[tuple[int, float]]:
    """Return at most `most` (2 or more) evenly spaced losses, with the first and the last."""
    if len(losses) <= most:
        return losses
    return [losses[round(index * (len(losses) - 1) / (most - 1))] for index in range(most)]


def _losses(curve: Curve, point: Point, most: int) -> list[Datum]:
    """Return the rows of one point, at most `most` of them."""
    healing = point.healing
    assert healing is not None
    names = {"point": point.key, **curve_names(curve), "layers": layer_ranges(point.plan.dropped)}
    losses = [(step.step, step.loss) for step in healing.trained_steps if step.loss is not None]
    size = -(-len(losses) // min(MAX_TRAINING, most - most // 3))
    groups = [losses[start : start + size] for start in range(0, len(losses), size)]
    training = [
        {
            "kind": "training",
            **names,
            "step": sum(step for step, _ in group) / len(group),
            "value": sum(loss for _, loss in group) / len(group),
            "over": len(group),
        }
        for group in groups
    ]
    heldout = thinned(healing.heldout_losses, max(2, min(MAX_HELDOUT, most // 3)))
    return training + [
        {"kind": "heldout", **names, "step": step, "value": loss} for step, loss in heldout
    ]


def _layers(data: Sequence[Datum], style: ChartStyle, small: bool) -> list[alt.Chart]:
    """Return light training losses below, then the dense models and the held-out losses."""
    hues = (datum["hue"] for datum in data if datum["kind"] == "heldout")
    color, shape = style.channels(hues)
    ticks = 4 if small else 8
    last = int(max(datum["step"] for datum in data if datum["kind"] != "dense"))
    # With few steps, Vega would put ticks between them.
    at_steps = {"values": list(range(last + 1))} if last < ticks else {"tickCount": ticks}
    x = alt.X("step:Q", title="optimiser step", axis=alt.Axis(format=",d", **at_steps))
    values = [datum["value"] for datum in data]
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.1  # keeps the dense model's line off the axis
    y = alt.Y(
        "value:Q",
        title="loss (nats per token)",
        scale=alt.Scale(domain=[low - margin, high + margin], zero=False, nice=True),
        axis=alt.Axis(tickCount=5 if small else 6),
    )
    encoding = {"x": x, "y": y, "color": color}
    training = (
        alt.Chart()
        .transform_filter("datum.kind === 'training'")
        .mark_line(strokeWidth=1, strokeOpacity=0.4, aria=False)
        .encode(**encoding, detail="point:N")
    )
    heldout = chart.line_and_dots(
        encoding,
        TOOLTIP,
        shape=shape,
        line={"detail": "point:N"},
        where="datum.kind === 'heldout'",
        size=26 if small else 60,
        width=1.5 if small else 2,
        aria=not small,
    )
    layers = [training, chart.reference_lines(style, y, "dense", small), *heldout]
    if not small and not style.several_models:
        label = alt.Chart().transform_filter("datum.kind === 'dense'")
        label = label.mark_text(align="left", baseline="bottom", dx=4, dy=-3, color=theme.DENSE)
        # At the left, where the curves are still far above.
        layers.append(label.encode(x=alt.value(0), y=y, text="label:N"))
    return layers


def _numbers(curves: Sequence[Curve]) -> list[str]:
    """Return a text for each point: its held-out losses, and its first and last training loss."""
    points = trained_points(curves)
    texts = []
    for curve, point in points:
        assert point.healing is not None
        heldout = thinned(point.healing.heldout_losses, max(2, MAX_NUMBERS // len(points)))
        first, last = point.healing.trained_steps[0], point.healing.trained_steps[-1]
        losses = ", ".join(f"{loss:.3f} at step {step}" for step, loss in heldout)
        texts.append(
            f"{curve.label}, {_cuts(point)}: held-out {losses}; "
            f"training {first.loss:.3f} at step {first.step}, {last.loss:.3f} at step {last.step}"
        )
    return texts
