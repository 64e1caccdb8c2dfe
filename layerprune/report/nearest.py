"""How near the two ends of the nearest block of each size are, against its size."""

from collections.abc import Sequence

import altair as alt

from layerprune.plan.block import block
from layerprune.report import style
from layerprune.report.figure import Figure, limited, make_figure, slug
from layerprune.report.lines import NUMBERS, Chart, told_apart
from layerprune.report.scales import scale_of
from layerprune.report.series import Datum
from layerprune.similarity.profile import Profile

MOST_LABELS = 34
"""Points of one line that there is room to write at."""


def nearest_data(profiles: Sequence[tuple[str, Profile]], names: Sequence[str]) -> list[Datum]:
    """One datum for each size of block of each matrix: its nearest block, and how far that is.

    `names` tell the matrices apart: of one model there may be two, of different text or tokens.
    """
    data = []
    for (model, profile), line in zip(profiles, names, strict=True):
        distances = profile.distances
        for size in range(1, len(distances)):
            first = block(profile.matrix, size, seed=0).layers[0]
            data.append(
                {
                    "model": model,
                    "line": line,
                    "size": size,
                    "first_layer": first,
                    "last_layer": first + size - 1,
                    "distance": distances[first][first + size],
                }
            )
    return data


def nearest_chart(data: list[Datum], unit: str, title: str, subtitle: list[str]) -> Chart:
    """A line for each model; with one model, each point says where its block begins."""
    lines = list(dict.fromkeys(datum["line"] for datum in data))
    most = max(datum["size"] for datum in data)
    x = alt.X(
        "size:Q",
        title="block size n (layers)",
        scale=alt.Scale(domain=[0, most + 0.5], nice=False),
        axis=alt.Axis(tickCount=min(most, 10), tickMinStep=1, format="d"),
    )
    y = alt.Y("distance:Q", title=unit, axis=alt.Axis(tickCount=6))
    several = len(lines) > 1
    color, shape = told_apart("line", lines)
    line = alt.Chart().mark_line(strokeWidth=2).encode(x=x, y=y, color=color)
    dot = (
        alt.Chart()
        .mark_point(filled=True, opacity=1, size=50, aria=False)
        .encode(x=x, y=y, color=color, shape=shape, tooltip=_TOOLTIP)
    )
    layers = [line, dot]
    if not several and most <= MOST_LABELS:
        layers.append(
            alt.Chart()
            .mark_text(dy=-10, fontSize=10.5, color=style.SAID, aria=False)
            .encode(
                x=x,
                y=y,
                text="first_layer:N",
                # On a narrow screen there is room for every third.
                opacity=alt.condition(
                    "width > 480 || datum.size % 3 === 1", alt.value(1), alt.value(0)
                ),
            )
        )
    return alt.layer(*layers, data=NUMBERS).properties(
        width=style.WIDTH, height=280, title=alt.TitleParams(text=title, subtitle=subtitle)
    )


_TOOLTIP = [
    alt.Tooltip("line:N", title="model"),
    alt.Tooltip("size:Q", title="block size n"),
    alt.Tooltip("first_layer:Q", title="its first layer l*(n)"),
    alt.Tooltip("last_layer:Q", title="its last layer"),
    alt.Tooltip("distance:Q", title="distance d(l*, n)", format=".4f"),
]


def nearest_figure(
    metric: str, profiles: Sequence[tuple[str, Profile]], names: Sequence[str], several: bool
) -> Figure:
    """The distance across the nearest block of each size, by one metric."""
    data = nearest_data(profiles, names)
    scale = scale_of(metric)
    title = f"Distance across the nearest block of each size{f', {metric}' if several else ''}"
    labelled = len(profiles) == 1
    said = "the least of all blocks of n layers" + ("; numbers: l*(n), where it begins" * labelled)
    spoken = [
        f"{datum['line']}, n={datum['size']}: {datum['distance']:.4f} at l*={datum['first_layer']}"
        for datum in data
    ]
    return make_figure(
        f"nearest-{slug(metric)}" if several else "nearest",
        title,
        f"{scale.caption}: {said}.",
        f"{title}: {said}. {limited(spoken)}.",
        nearest_chart(data, scale.legend, title, [said]),
        data,
        facts={"metric": metric},
    )
