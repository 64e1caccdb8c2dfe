"""Heat-maps of how far apart the two ends of every block of layers are."""

from typing import Any

import altair as alt

from layerprune.plan.block import block
from layerprune.report import style
from layerprune.report.figure import Figure, make_figure
from layerprune.report.lines import NUMBERS
from layerprune.report.scales import scale_of
from layerprune.similarity.profile import Profile

Datum = dict[str, Any]

SIDE = 330
"""Width and height of a heat-map, in pixels."""


def distance_data(profile: Profile) -> list[Datum]:
    """One datum for each block: its first layer, size, distance, and that on its size's scale."""
    distances = profile.distances
    data = []
    for size in range(1, len(distances)):
        row = [distances[start][start + size] for start in range(len(distances) - size)]
        low, high = min(row), max(row)
        nearest = block(profile.matrix, size, seed=0).layers[0]
        for start, distance in enumerate(row):
            data.append(
                {
                    "first_layer": start,
                    "size": size,
                    "distance": distance,
                    # A row of equal blocks, or of a single one, has no scale of its own.
                    "rescaled": (distance - low) / (high - low) if high > low else None,
                    "nearest": start == nearest,
                }
            )
    return data


def distance_chart(
    data: list[Datum], unit: str, title: str, subtitle: list[str]
) -> alt.ConcatChart:
    """Two heat-maps: distances on each row's own scale, and as they are."""
    panels = [
        _heat(data, "rescaled", "each block size on its own scale", "0 = nearest, 1 = farthest"),
        _heat(data, "distance", "as measured", unit),
    ]
    return (
        alt.concat(*panels, columns=2, data=NUMBERS)
        .resolve_scale(color="independent")
        .properties(title=alt.TitleParams(text=title, subtitle=subtitle))
    )


def _heat(
    data: list[Datum], field: str, title: str, legend: str
) -> alt.LayerChart | alt.FacetChart:
    most = max(datum["size"] for datum in data)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if most / step <= 10)
    # Whole scales in both panels, though one leaves cells out.
    x = alt.X(
        "first_layer:O",
        scale=alt.Scale(domain=list(range(most))),
        title="first layer l of the block",
        axis=alt.Axis(values=list(range(0, most, step)), labelAngle=0),
    )
    y = alt.Y(
        "size:O",
        title="block size n (layers)",
        scale=alt.Scale(domain=list(range(most, 0, -1))),
        axis=alt.Axis(values=[1, *range(step, most + 1, step)] if step > 1 else alt.Undefined),
    )
    color = alt.Color(
        f"{field}:Q",
        scale=alt.Scale(range=style.NEAR_TO_FAR, interpolate="rgb"),
        legend=alt.Legend(
            title=legend, orient="bottom", gradientLength=SIDE - 90, titleLimit=SIDE, offset=8
        ),
    )
    cells = (
        alt.Chart()
        .transform_filter(f"isValid(datum.{field})")
        .mark_rect(aria=False)
        .encode(
            x=x,
            y=y,
            color=color,
            tooltip=[
                alt.Tooltip("first_layer:O", title="first layer l"),
                alt.Tooltip("size:O", title="block size n"),
                alt.Tooltip("distance:Q", title="distance d(l, n)", format=".4f"),
                alt.Tooltip("rescaled:Q", title="on its row's scale", format=".3f"),
            ],
        )
    )
    marks = (
        alt.Chart()
        .transform_filter(f"datum.nearest && isValid(datum.{field})")
        .mark_point(
            shape="circle",
            filled=True,
            size=16,
            opacity=1,
            color=style.NEAREST,
            stroke=style.PAPER,
            strokeWidth=0.8,
        )
        .encode(x=x, y=y)
    )
    return alt.layer(cells, marks).properties(
        width=SIDE,
        height=SIDE,
        title=alt.TitleParams(text=title, fontSize=13, fontWeight="normal", offset=6),
    )


def distances_figure(model: str, name: str, profile: Profile, several_metrics: bool) -> Figure:
    """The heat-map of one matrix; `name` tells it from others of the same model."""
    data = distance_data(profile)
    metric = str(profile.depends_on["metric"])
    scale = scale_of(metric)
    tokens = {"last": " at the last token", "all": " at all tokens but the first"}
    where = tokens.get(str(profile.depends_on.get("metric_tokens")), "")
    marks = [datum for datum in data if datum["nearest"]]
    said = f"mean of {profile.num_sequences} sequences; red: the nearest block of each size, l*(n)"
    title = f"Distance across every block of {name}{f', {metric}' if several_metrics else ''}"
    spoken = "; ".join(
        f"n={mark['size']}: l*={mark['first_layer']}, {mark['distance']:.4f}" for mark in marks
    )
    return make_figure(
        f"distances-{profile.key}",
        title,
        f"{scale.caption}{where}, {said}.",
        f"{title}. Nearest block of each size n, with its first layer l* and distance: {spoken}.",
        distance_chart(data, scale.legend, title, [said]),
        data,
        panel=SIDE + 56,
        facts={"model": model, "metric": metric},
    )
