"""Layer distances: the most similar block of each size, and heat maps of all blocks."""

from collections.abc import Sequence

import altair as alt

from layerprune.prune.distance_matrix import DistanceMatrix
from layerprune.prune.strategies.block import best_block
from layerprune.report.figures import chart, theme
from layerprune.report.figures.curve_data import Datum
from layerprune.report.figures.figure import Figure, described, make_figure, slug

SIDE = 330
"""Width and height of a heat map, in pixels."""

MAX_LABELS = 34
"""Points of a line with space for a label at each."""

BEST_BLOCK_TOOLTIP = [
    alt.Tooltip("line:N", title="model"),
    alt.Tooltip("size:Q", title="block size n"),
    alt.Tooltip("first_layer:Q", title="its first layer l*(n)"),
    alt.Tooltip("last_layer:Q", title="its last layer"),
    alt.Tooltip("distance:Q", title="distance d(l*, n)", format=".4f"),
]

_BETWEEN = "between the inputs of layers l and l+n"
_SUM = "of layers l to l+n-1, added up"

METRIC_TEXTS = {
    "angular": ("angular distance d(l, n), units of π", f"Angular distance {_BETWEEN}"),
    "cosine": ("cosine distance d(l, n), 1 = orthogonal", f"1 - cosine {_BETWEEN}"),
    "block_influence": (
        "block influence d(l, n), 1 = orthogonal", f"Block influence (1 - cosine) {_BETWEEN}"
    ),
    "magnitude": (
        "relative magnitude d(l, n), |y - x| / |x|",
        f"Length of the difference {_BETWEEN}, relative to the former's",
    ),
    "euclidean": ("Euclidean distance d(l, n)", f"Euclidean distance {_BETWEEN}"),
    "cka": ("1 - linear CKA d(l, n)", f"1 - linear CKA {_BETWEEN}"),
    "perplexity": ("rise of the loss d(l, n), nats per token", f"Rise of the loss {_SUM}"),
    "taylor": ("sum of |w dL/dw|, d(l, n), nats", f"Sum of |w dL/dw| over weights {_SUM}"),
    "random": ("drawn importance d(l, n)", f"Importances drawn by the seed {_SUM}"),
}  # fmt: skip
"""Legend and start of the caption for each metric; others are called by their own name."""


def metric_texts(metric: str) -> tuple[str, str]:
    """Return a metric's name with its unit, and the meaning of a distance, to begin a sentence."""
    unnamed = f"{metric} d(l, n)", f"{metric.capitalize()} {_BETWEEN}"
    return METRIC_TEXTS.get(metric, unnamed)


def best_block_data(
    profiles: Sequence[tuple[str, DistanceMatrix]], names: Sequence[str]
) -> list[Datum]:
    """Return a row for each size and matrix: the most similar block and its distance.

    `names` tell the matrices apart: one model may have two, of different text or tokens.
    """
    return [
        {
            "model": model,
            "line": line,
            "size": size,
            "first_layer": first,
            "last_layer": first + size - 1,
            "distance": profile.distances[first][first + size],
        }
        for (model, profile), line in zip(profiles, names, strict=True)
        for size in range(1, len(profile.distances))
        for first in [best_block(profile.matrix, size)[0]]
    ]


def best_blocks_figure(
    metric: str, profiles: Sequence[tuple[str, DistanceMatrix]], names: Sequence[str], several: bool
) -> Figure:
    """Return the figure for one metric, with a line for each matrix.

    A lone line has the first layer of the block at each of its points. With `several` metrics, the
    figure is named after its own.
    """
    data = best_block_data(profiles, names)
    largest = max(datum["size"] for datum in data)
    legend, meaning = metric_texts(metric)
    x = alt.X(
        "size:Q",
        title="block size n (layers)",
        scale=alt.Scale(domain=[0, largest + 0.5], nice=False),
        axis=alt.Axis(tickCount=min(largest, 10), tickMinStep=1, format="d"),
    )
    y = alt.Y("distance:Q", title=legend, axis=alt.Axis(tickCount=6))
    color, shape = chart.model_style(data).channels()
    layers = [
        *chart.line_and_dots({"x": x, "y": y, "color": color}, BEST_BLOCK_TOOLTIP, shape=shape)
    ]
    if len(profiles) == 1 and largest <= MAX_LABELS:
        labels = alt.Chart().mark_text(dy=-10, fontSize=10.5, color=theme.LABEL, aria=False)
        # A narrow screen has space for every third.
        shown = "width > 480 || datum.size % 3 === 1"
        opacity = alt.condition(shown, alt.value(1), alt.value(0))
        layers.append(labels.encode(x=x, y=y, text="first_layer:N", opacity=opacity))
    of_metric = f", {metric}" if several else ""
    title = f"Distance across the most similar block of each size{of_metric}"
    labelled = "; numbers: l*(n), its first layer" if len(profiles) == 1 else ""
    caption = f"the least distance of all blocks of n layers{labelled}"
    return make_figure(
        f"nearest-{slug(metric)}" if several else "nearest",
        title,
        f"{meaning}: {caption}.",
        f"{title}: {caption}.",
        described(data, "{line}, n={size}: {distance:.4f} at l*={first_layer}"),
        chart.build(layers, data, title, [caption], height=280),
        data,
        facts={"metric": metric},
    )


def distance_data(profile: DistanceMatrix) -> list[Datum]:
    """Return a row for each block, with its distance as measured and on its own size's scale."""
    distances = profile.distances
    data = []
    for size in range(1, len(distances)):
        row = [distances[first][first + size] for first in range(len(distances) - size)]
        low, high = min(row), max(row)
        nearest = best_block(profile.matrix, size)[0]
        for first, distance in enumerate(row):
            data.append(
                {
                    "first_layer": first,
                    "size": size,
                    "distance": distance,
                    # Equal distances, or a single one, have no scale.
                    "rescaled": (distance - low) / (high - low) if high > low else None,
                    "nearest": first == nearest,
                }
            )
    return data


def heat_map_figure(
    model: str, name: str, profile: DistanceMatrix, several_metrics: bool
) -> Figure:
    """Return the heat maps of one matrix: distances on each row's own scale, and as measured.

    `name` tells it from others of the same model.
    """
    data = distance_data(profile)
    metric = str(profile.depends_on["metric"])
    legend, meaning = metric_texts(metric)
    tokens = {"last": " at the last token", "all": " at all tokens but the first"}
    at_tokens = tokens.get(str(profile.depends_on.get("metric_tokens")), "")
    subtitle = (
        f"mean of {profile.num_sequences} sequences; red: the most similar block of each size, "
        "l*(n)"
    )
    title = f"Distance across every block of {name}{f', {metric}' if several_metrics else ''}"
    numbers = "; ".join(
        f"n={datum['size']}: l*={datum['first_layer']}, {datum['distance']:.4f}"
        for datum in data
        if datum["nearest"]
    )
    similarity = "0 = most similar, 1 = least similar"
    panels = [
        _heat_map(data, "rescaled", "each block size on its own scale", similarity),
        _heat_map(data, "distance", "as measured", legend),
    ]
    return make_figure(
        f"distances-{profile.key}",
        title,
        f"{meaning}{at_tokens}, {subtitle}.",
        f"{title}. Most similar block of each size n, with its first layer l* and distance:",
        numbers,
        alt.concat(*panels, columns=2, data=chart.NO_DATA)
        .resolve_scale(color="independent")
        .properties(title=alt.TitleParams(text=title, subtitle=[subtitle])),
        data,
        panel=SIDE + 56,
        facts={"model": model, "metric": metric},
    )


def _heat_map(data: list[Datum], column: str, title: str, legend: str) -> chart.Chart:
    largest = max(datum["size"] for datum in data)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if largest / step <= 10)
    # The same scales in both panels, though one leaves cells out.
    x = alt.X(
        "first_layer:O",
        scale=alt.Scale(domain=list(range(largest))),
        title="first layer l of the block",
        axis=alt.Axis(values=list(range(0, largest, step)), labelAngle=0),
    )
    y = alt.Y(
        "size:O",
        title="block size n (layers)",
        scale=alt.Scale(domain=list(range(largest, 0, -1))),
        axis=alt.Axis(values=[1, *range(step, largest + 1, step)] if step > 1 else alt.Undefined),
    )
    color = alt.Color(
        f"{column}:Q",
        scale=alt.Scale(range=theme.SIMILAR_TO_DIFFERENT, interpolate="rgb"),
        legend=alt.Legend(
            title=legend, orient="bottom", gradientLength=SIDE - 90, titleLimit=SIDE, offset=8
        ),
    )
    tooltip = [
        alt.Tooltip("first_layer:O", title="first layer l"),
        alt.Tooltip("size:O", title="block size n"),
        alt.Tooltip("distance:Q", title="distance d(l, n)", format=".4f"),
        alt.Tooltip("rescaled:Q", title="on its row's scale", format=".3f"),
    ]
    cells = alt.Chart().transform_filter(f"isValid(datum.{column})").mark_rect(aria=False)
    circles = alt.Chart().transform_filter(f"datum.nearest && isValid(datum.{column})")
    circles = circles.mark_point(
        shape="circle",
        filled=True,
        size=16,
        opacity=1,
        color=theme.HIGHLIGHT,
        stroke=theme.BACKGROUND,
        strokeWidth=0.8,
    )
    layers = cells.encode(x=x, y=y, color=color, tooltip=tooltip), circles.encode(x=x, y=y)
    return alt.layer(*layers).properties(width=SIDE, height=SIDE, title=chart.panel_title(title))
