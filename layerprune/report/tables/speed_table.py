"""Measured speeds as a table: the speedup of each pruned model, and its upper bounds."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import starmap

from layerprune.analysis.curves import Curve
from layerprune.record.point import Point
from layerprune.record.speed import MedianRange, Speed
from layerprune.report.tables.text_table import TextTable, fitting, table_of


def timed_points(curves: Sequence[Curve]) -> list[tuple[Curve, Point, Speed]]:
    """Return the points whose speed was measured."""
    return [
        (curve, point, point.speed)
        for curve in curves
        for point in curve.points
        if point.speed is not None
    ]


def ideal_ratio(point: Point) -> float:
    """Return the speedup over the dense model if layers alone took time."""
    return point.model.num_layers / (point.model.num_layers - point.num_dropped)


def make_speed_table(curves: Sequence[Curve], width: int | None = None) -> TextTable | None:
    """Return the table; None if no point's speed was measured.

    Where it is wider than `width`, ratios are medians without their ranges, and a table of several
    curves has no memory.
    """
    return fitting(partial(_table, curves), width)


def _table(curves: Sequence[Curve], wide: bool) -> TextTable | None:
    points = timed_points(curves)
    if not points:
        return None
    several = len({curve.label for curve, _, _ in points}) > 1

    def cells(curve: Curve, point: Point, speed: Speed) -> Iterator[tuple[str, str]]:
        if several:
            yield "curve", curve.label
        pruned = speed.pruned
        yield "fraction", f"{point.plan.fraction:.1%}"
        yield "n", str(point.num_dropped)
        yield "by\nlayers", f"{ideal_ratio(point):.2f}"
        yield "prefill\ntok/s", f"{pruned.prefill.median:,.0f}"
        yield "by op-\nerations", f"{speed.prefill_by_flops:.2f}"
        yield "times\ndense", _ratio(speed.prefill_ratio, wide)
        yield "decode\ntok/s", f"{pruned.decode.median:,.1f}"
        yield "by op-\nerations", f"{speed.decode_by_flops:.2f}"
        yield "times\ndense", _ratio(speed.decode_ratio, wide)
        if wide or not several:
            yield "weights\nGiB", f"{pruned.weight_bytes / 2**30:.2f}"
            yield "peak\nGiB", f"{pruned.peak_bytes / 2**30:.2f}"

    conditions = "; ".join(dict.fromkeys(speed.conditions for _, _, speed in points))
    return table_of(
        "Speed of each pruned model and the dense one",
        int(several),
        starmap(cells, points),
        f"{conditions}. times dense: speed over the dense model's in the same "
        f"round{', with the range over rounds' if wide else ''}. by layers, by operations: "
        "the ratio if time grew with the number of layers, or with the operations per token. "
        "Prefill computes logits for the last token alone, decoding for every token; the head "
        "is not pruned, nor is the overhead of a step.",
    )


def _ratio(ratio: MedianRange, with_range: bool) -> str:
    return f"{ratio.median:.2f}" + (f" ({ratio.low:.2f}-{ratio.high:.2f})" if with_range else "")
