"""Does the distance across a block tell what is lost without it? Of all blocks, not the best alone.

    python experiments/predictor.py outputs/predictor [--task facts] [--but 11]

Prints the tables of `experiments/predictor.md` and draws its figures. Of every block of layers in
the study's records it takes the distance that the plan was made from, and lays it beside the
held-out loss and the accuracy of the model without that block. A predictor is as good as its rank
correlation with what is lost (Spearman's): 1 if it puts all blocks in their true order. Beside the
distance stand predictors that measure nothing: how far from the end a block begins, how far from
the middle of the model it lies, and how many layers it has.

`--but LAYER` leaves out the blocks that hold a layer, and draws nothing.

Intervals are percentiles of a bootstrap over blocks. Neighbours share most of their layers, so that
they say less than as many blocks that have none in common, and the intervals are too narrow.

Letters: N blocks, any leading dimensions are resamples.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import numpy as np
import pictures
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap, rankdata

from layerprune.analysis.curves import UNHEALED
from layerprune.analysis.statistics import LEVEL, RESAMPLES, SEED, Interval
from layerprune.record.point import layer_ranges
from layerprune.report import Report, read
from layerprune.report.figures import theme

FOLDER = Path(__file__).parent / "predictor"

MIN_POINTS = 5
"""Blocks from which on a correlation is of any use."""

MISSES = 3
"""Of each size, the blocks that are named in the table of misses, in each direction."""


@dataclass(frozen=True)
class Block:
    """The model without some layers in a row."""

    first: int
    size: int
    num_layers: int
    """Of the dense model."""
    distance: float
    """Between the two ends of the block, by the study's metric."""
    loss: float
    """Held-out, in nats."""
    accuracy: float
    """In percent."""

    @property
    def layers(self) -> str:
        """As in `3-5`."""
        return layer_ranges(range(self.first, self.first + self.size))

    def holds(self, layer: int | None) -> bool:
        """Whether a layer is one of them; none is not."""
        return layer is not None and self.first <= layer < self.first + self.size


Score = Callable[[Block], float]

PREDICTORS: dict[str, Score] = {
    "distance": lambda block: block.distance,
    "from the end": lambda block: block.num_layers - block.first,
    "from the middle": lambda block: abs(block.first + (block.size - block.num_layers) / 2),
    "size": lambda block: block.size,
}
"""What may rise with what is lost. Of one size all but the last vary."""

PLACES = ("from the end", "from the middle")
"""Predictors that the distance is held against: of the place alone."""

OUTCOMES: dict[str, Score] = {
    "loss": lambda block: block.loss,
    "accuracy lost": lambda block: -block.accuracy,
}
"""What is lost: more is worse."""


@dataclass(frozen=True)
class Correlation:
    """Spearman's, with its bootstrap interval."""

    value: float
    interval: Interval

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.interval.low:.2f}, {self.interval.high:.2f}]"


def main() -> None:
    """Print the tables as Markdown and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--task", default="facts")
    parser.add_argument("--but", type=int, help="a layer whose blocks are left out")
    options = parser.parse_args()
    groups = read_blocks(read([options.study]), options.task)
    for metric, every in groups.items():
        blocks = [block for block in every if not block.holds(options.but)]
        print("\n".join([f"## {metric}", "", *correlations(blocks), ""]))
        print("\n".join([*choices(blocks), "", *misses(blocks), ""]))
        if options.but is not None:
            continue
        kind = "" if len(groups) == 1 else f"-{metric}"
        pictures.write(FOLDER / f"scatter{kind}.png", scatter_chart(blocks, metric))
        pictures.write(FOLDER / f"places{kind}.png", places_chart(blocks, metric))


def read_blocks(report: Report, task: str) -> dict[str, list[Block]]:
    """By metric, the study's blocks that were not healed, by size and first layer."""
    matrices = {profile.key: profile.matrix for _, profile in report.profiles}
    found: dict[str, dict[tuple[int, int], Block]] = defaultdict(dict)
    entries = [entry for curve in report.curves for entry in curve.points]
    if len({entry.comparison_key for entry in entries}) > 1:
        raise SystemExit(f"{report.study} has points of several models, questions or texts.")
    for entry in entries:
        first, size = entry.first_layer, entry.num_dropped
        if entry.recipe != UNHEALED or entry.plan.profile not in matrices or first is None:
            continue
        if entry.plan.dropped != tuple(range(first, first + size)):
            continue
        distance = float(matrices[entry.plan.profile][first, first + size])
        accuracy = 100 * entry.correct_share(task)
        block = Block(first, size, entry.model.num_layers, distance, entry.loss.nats, accuracy)
        # One that a strategy chose may have been named by the user, too.
        found[entry.plan.metric][size, first] = block
    if not found:
        raise SystemExit(f"{report.study} has no block of layers with its distances.")
    return {
        metric: [block for _, block in sorted(blocks.items())]
        for metric, blocks in sorted(found.items())
    }


def spearman(a_N: ArrayLike, b_N: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Spearman's rank correlation along an axis: Pearson's of the ranks, ties share a mean rank."""
    a_N, b_N = (rankdata(each, axis=axis) for each in (a_N, b_N))
    a_N, b_N = (each - each.mean(axis=axis, keepdims=True) for each in (a_N, b_N))
    size = np.sqrt((a_N**2).sum(axis=axis) * (b_N**2).sum(axis=axis))
    # One value alone has no order: it predicts nothing.
    return np.divide((a_N * b_N).sum(axis=axis), size, out=np.zeros_like(size), where=size > 0)


def correlation(blocks: Sequence[Block], score: Score, outcome: Score) -> Correlation:
    """Of a predictor with what is lost."""
    samples = [score(block) for block in blocks], [outcome(block) for block in blocks]
    return _estimate(spearman, *samples)


def advantage(blocks: Sequence[Block], score: Score, other: Score, outcome: Score) -> Correlation:
    """The correlation of one predictor minus another's, on the same blocks."""

    def difference(a_N, b_N, lost_N, axis=-1):  # type: ignore[no-untyped-def]
        return spearman(a_N, lost_N, axis) - spearman(b_N, lost_N, axis)

    return _estimate(
        difference, *([of(block) for block in blocks] for of in (score, other, outcome))
    )


def _estimate(statistic: Callable[..., NDArray[np.float64]], *samples: list[float]) -> Correlation:
    found = bootstrap(
        samples, statistic, paired=True, vectorized=True, method="percentile",
        n_resamples=RESAMPLES, confidence_level=LEVEL, rng=np.random.default_rng(SEED),
    ).confidence_interval  # fmt: skip
    value = float(statistic(*map(np.array, samples)))
    return Correlation(value, Interval(float(found.low), float(found.high)))


def sizes(blocks: Sequence[Block]) -> Iterator[tuple[str, list[Block]]]:
    """The blocks of each size that has enough of them, then all together if there are several."""
    by_size: dict[int, list[Block]] = defaultdict(list)
    for block in blocks:
        by_size[block.size].append(block)
    enough = {size: some for size, some in by_size.items() if len(some) >= MIN_POINTS}
    yield from ((str(size), some) for size, some in enough.items())
    if len(enough) > 1:
        yield "all", [block for some in enough.values() for block in some]


def correlations(blocks: Sequence[Block]) -> list[str]:
    """A table: each predictor with what is lost, and the distance against places."""
    rivals = {f"distance less {name}": PREDICTORS[name] for name in PLACES}
    lines = [
        f"| n | blocks | of | {' | '.join([*PREDICTORS, *rivals])} |",
        f"|--:|--:|:--|{':--|' * len([*PREDICTORS, *rivals])}",
    ]
    for name, some in sizes(blocks):
        for outcome, lost in OUTCOMES.items():
            cells = [
                "" if len(set(map(score, some))) == 1 else str(correlation(some, score, lost))
                for score in PREDICTORS.values()
            ]
            distance = PREDICTORS["distance"]
            cells += [str(advantage(some, distance, rival, lost)) for rival in rivals.values()]
            lines.append(f"| {name} | {len(some)} | {outcome} | {' | '.join(cells)} |")
    return lines


def choices(blocks: Sequence[Block]) -> list[str]:
    """A table: for each size, the blocks of the least distance and of the least loss."""
    lines = [
        "| n | most similar | its loss | rank | least loss | its loss | rank by distance "
        "| mean loss |",
        "|--:|:--|--:|--:|:--|--:|--:|--:|",
    ]
    for name, some in sizes(blocks):
        if name == "all":
            continue
        by_distance = sorted(some, key=lambda block: (block.distance, -block.first))
        by_loss = sorted(some, key=lambda block: block.loss)
        chosen, best = by_distance[0], by_loss[0]
        mean = sum(block.loss for block in some) / len(some)
        lines.append(
            f"| {name} | {chosen.layers} | {chosen.loss:.3f} "
            f"| {by_loss.index(chosen) + 1} of {len(some)} | {best.layers} | {best.loss:.3f} "
            f"| {by_distance.index(best) + 1} | {mean:.3f} |"
        )
    return lines


def misses(blocks: Sequence[Block]) -> list[str]:
    """A table: of each size, the blocks whose rank by loss is furthest from that by distance."""
    lines = [
        "| n | layers | distance | rank | loss | rank | worse than predicted by |",
        "|--:|:--|--:|--:|--:|--:|--:|",
    ]
    for name, some in sizes(blocks):
        if name == "all":
            continue
        gaps = rank_gaps(some)
        order = sorted(range(len(some)), key=lambda at: -gaps[at])
        near = rankdata([block.distance for block in some])
        lost = rankdata([block.loss for block in some])
        shown = [at for at in order if gaps[at] > 0][:MISSES]
        shown += [at for at in order if gaps[at] < 0][-MISSES:]
        lines += [
            f"| {name} | {some[at].layers} | {some[at].distance:.3f} | {near[at]:g} "
            f"| {some[at].loss:.3f} | {lost[at]:g} | {gaps[at]:+g} |"
            for at in shown
        ]
    return lines


def rank_gaps(blocks: Sequence[Block]) -> list[float]:
    """Of each block, its rank by loss less its rank by distance: above 0 if it costs more."""
    gap_N = rankdata([each.loss for each in blocks]) - rankdata([each.distance for each in blocks])
    return [float(gap) for gap in gap_N]


def scatter_chart(blocks: Sequence[Block], metric: str) -> alt.HConcatChart:
    """A panel for each size: loss against distance, coloured by place, the worst misses named."""
    panels = []
    x = alt.X(
        "distance:Q",
        title=f"{metric} distance",
        scale=alt.Scale(type="log", domain=_span([block.distance for block in blocks])),
    )
    y = alt.Y(
        "loss:Q",
        title="held-out loss (nats)",
        scale=alt.Scale(type="log", domain=_span([block.loss for block in blocks])),
    )
    for name, some in sizes(blocks):
        if name == "all":
            continue
        gaps = rank_gaps(some)
        above, below = gaps.index(max(gaps)), gaps.index(min(gaps))
        data = [
            {
                "distance": block.distance,
                "loss": block.loss,
                "first": block.first,
                "above": block.layers if at == above else "",
                "below": block.layers if at == below else "",
            }
            for at, block in enumerate(some)
        ]
        base = alt.Chart(alt.Data(values=data)).encode(x=x, y=y)
        dot = base.mark_point(filled=True, opacity=1, size=55).encode(
            color=alt.Color(
                "first:Q",
                scale=alt.Scale(range=theme.SIMILAR_TO_DIFFERENT[::-1]),
                legend=alt.Legend(
                    title="first layer of the block",
                    titleOrient="left",
                    orient="top",
                    direction="horizontal",
                    gradientLength=200,
                ),
            )
        )
        # To the right of a point and below it: another point is often just under the lowest.
        words = [
            base.mark_text(fontSize=12, color=theme.LABEL, **place).encode(text=f"{field}:N")
            for field, place in (
                ("above", {"dy": -11}),
                ("below", {"align": "left", "dx": 8, "dy": 5}),
            )
        ]
        found = correlation(some, PREDICTORS["distance"], OUTCOMES["loss"])
        title = alt.TitleParams(
            text=f"{name} layers", subtitle=f"rank correlation {found.value:.2f}", fontSize=13
        )
        panels.append(alt.layer(dot, *words).properties(width=250, height=270, title=title))
    return alt.hconcat(*panels, bounds="flush", spacing=60).properties(
        title="Loss without a block against the distance across it"
    )


def places_chart(blocks: Sequence[Block], metric: str) -> alt.VConcatChart:
    """Loss and distance by a block's first layer, a line for each size."""
    names = [name for name, _ in sizes(blocks) if name != "all"]
    data = [
        {"size": name, "first": block.first, "distance": block.distance, "loss": block.loss}
        for name, some in sizes(blocks) if name != "all"
        for block in some
    ]  # fmt: skip
    scale = alt.Scale(domain=names, range=list(theme.HUES[: len(names)]))
    color = alt.Color(
        "size:N", scale=scale, legend=alt.Legend(title="layers removed", orient="top")
    )

    def panel(field: str, title: str) -> alt.Chart:
        return (
            alt.Chart()
            .mark_line(point={"size": 40}, strokeWidth=1.75)
            .encode(
                x=alt.X("first:Q", title="first layer of the block",
                        axis=alt.Axis(tickMinStep=1, tickCount=15)),
                y=alt.Y(f"{field}:Q", title=title, scale=alt.Scale(zero=False)),
                color=color,
            )
            .properties(width=theme.WIDTH, height=200)
        )  # fmt: skip

    return alt.vconcat(
        panel("loss", "held-out loss (nats)"),
        panel("distance", f"{metric} distance"),
        data=alt.Data(values=data),
    ).properties(title="Loss and distance by the first layer of a block")


def _span(values: Sequence[float]) -> list[float]:
    """The ends of a logarithmic axis, with some room."""
    return [0.93 * min(values), 1.1 * max(values)]


if __name__ == "__main__":
    main()
