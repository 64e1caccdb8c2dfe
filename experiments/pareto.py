"""Size against accuracy: prints the table of `experiments/quantisation.md`, and draws its figure.

    python experiments/pareto.py outputs/quantisation [--task facts]

A point is on the front if no other point of the study is as small and more accurate, or as accurate
and smaller. Bytes of weights were counted when the points were made: whatever bitsandbytes does not
hold in few bits, embeddings and head above all, takes what it did before.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import altair as alt
import pictures

from layerprune.analysis.statistics import wilson
from layerprune.record.point import Point, layer_ranges
from layerprune.report import read
from layerprune.report.figures import theme
from layerprune.report.figures.cost_figures import weight_type
from layerprune.report.figures.curve_data import Datum

FIGURE = Path(__file__).parent / "quantisation" / "pareto.png"


class Sized(NamedTuple):
    """One model by its size and what it knows."""

    num_bytes: int
    accuracy: float


def front(points: Sequence[Sized]) -> list[bool]:
    """For each point, whether it is on the Pareto front; equal points are on it together."""
    smallest_first = sorted(points, key=lambda point: (point.num_bytes, -point.accuracy))
    best: list[Sized] = []
    for point in smallest_first:
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return [point in set(best) for point in points]


def main() -> None:
    """Print the table as Markdown and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--task", default="facts")
    options = parser.parse_args()
    data = rows(options.study, options.task)
    print("| weights | n | layers removed | MB | accuracy % | 95 % | front |")
    print("|:--|--:|:--|--:|--:|:--|:-:|")
    for row in data:
        print(
            f"| {row['held']} | {row['n']} | {row['layers']} | {row['megabytes']:.1f} "
            f"| {row['accuracy']:.1f} | {row['low']:.0f}-{row['high']:.0f} "
            f"| {'*' if row['best'] else ''} |"
        )
    FIGURE.parent.mkdir(exist_ok=True)
    pictures.write(FIGURE, _chart(data, options.task))


def rows(study: Path, task: str) -> list[Datum]:
    """A row for each point of a study, by rising size; accuracies in percent."""
    entries = [entry for curve in read([study]).curves for entry in curve.points]
    points = [_sized(entry, task) for entry in entries]
    found = zip(points, front(points), entries, strict=True)
    return [_row(*each, task) for each in sorted(found, key=lambda each: each[0])]


def _sized(entry: Point, task: str) -> Sized:
    if entry.model.weight_bytes is None:
        raise SystemExit(f"{entry.key} is from before weights were counted: recompute it.")
    return Sized(entry.model.weight_bytes, entry.correct_share(task))


def _row(point: Sized, best: bool, entry: Point, task: str) -> Datum:
    questions = entry.task_scores[task].num_samples
    interval = wilson(round(point.accuracy * questions), questions)
    return {
        "held": weight_type(entry),
        "n": entry.num_dropped,
        "layers": layer_ranges(entry.plan.dropped),
        "megabytes": point.num_bytes / 1e6,
        "accuracy": 100 * point.accuracy,
        "low": 100 * interval.low,
        "high": 100 * interval.high,
        "best": best,
    }


def _chart(data: Sequence[Datum], task: str) -> alt.LayerChart:
    names = sorted({datum["held"] for datum in data})
    legend = alt.Legend(title="weights held as", titleOrient="left", orient="top", symbolOpacity=1)
    hues, shapes = list(theme.HUES[: len(names)]), list(theme.SHAPES[: len(names)])
    color = alt.Color("held:N", scale=alt.Scale(domain=names, range=hues), legend=legend)
    shape = alt.Shape("held:N", scale=alt.Scale(domain=names, range=shapes), legend=legend)
    base = alt.Chart().encode(
        x=alt.X(
            "megabytes:Q", title="weights (MB)", scale=alt.Scale(type="log", nice=False, padding=24)
        ),
        y=alt.Y("accuracy:Q", title="accuracy (%)", scale=alt.Scale(zero=False)),
    )
    best = (
        base.transform_filter("datum.best")
        .mark_line(
            interpolate="step-after", strokeDash=theme.DASHED, color=theme.DENSE, strokeWidth=1.25
        )
        .encode(order="megabytes:Q")
    )
    bar = base.mark_rule(strokeWidth=1.25, opacity=0.5).encode(
        y=alt.Y("low:Q"), y2="high:Q", color=color
    )
    dot = base.mark_point(filled=True, opacity=1, size=70).encode(color=color, shape=shape)
    number = base.mark_text(align="right", dx=-6, dy=-8, color=theme.LABEL).encode(text="n:Q")
    title = alt.TitleParams(
        text=f"Size against accuracy on {task}",
        subtitle="numbers: layers dropped; bars: 95 % intervals; dashed: the Pareto front",
    )
    return alt.layer(best, bar, dot, number, data=alt.Data(values=list(data))).properties(
        width=theme.WIDTH, height=theme.HEIGHT, title=title
    )


if __name__ == "__main__":
    main()
