"""Measured speeds as a table of texts: what a cut model gains, and what it could."""

from collections.abc import Sequence

from layerprune.record.speed import Speed, Spread
from layerprune.report.curves import Curve
from layerprune.report.entry import Entry
from layerprune.report.texts import TextTable


def timed(curves: Sequence[Curve]) -> list[tuple[Curve, Entry, Speed]]:
    """The points whose speed was measured."""
    return [
        (curve, entry, entry.speed)
        for curve in curves
        for entry in curve.entries
        if entry.speed is not None
    ]


def ideal_ratio(entry: Entry) -> float:
    """Times as fast as the dense model, if only layers took time."""
    return entry.num_layers / (entry.num_layers - entry.num_dropped)


def make_sped(curves: Sequence[Curve], width: int | None = None) -> TextTable | None:
    """The table; None if no point's speed was measured.

    Where it is wider than `width`, ratios are medians alone.
    """
    table = _table(curves, spreads=True)
    if table is not None and width is not None and table.width > width:
        return _table(curves, spreads=False)
    return table


def _table(curves: Sequence[Curve], spreads: bool) -> TextTable | None:
    points = timed(curves)
    if not points:
        return None
    several = len({curve.label for curve, _, _ in points}) > 1
    rows = tuple(
        (
            *([curve.label] if several else []),
            f"{entry.fraction:.1%}",
            str(entry.num_dropped),
            f"{ideal_ratio(entry):.2f}",
            f"{speed.pruned.prefill.median:,.0f}",
            f"{speed.prefill_counted:.2f}",
            _times(speed.prefill_ratio, spreads),
            f"{speed.pruned.decode.median:,.1f}",
            "" if speed.decode_counted is None else f"{speed.decode_counted:.2f}",
            _times(speed.decode_ratio, spreads),
            f"{speed.pruned.weight_bytes / 2**30:.2f}",
            f"{speed.pruned.peak_bytes / 2**30:.2f}",
        )
        for curve, entry, speed in points
    )
    conditions = dict.fromkeys(speed.conditions for _, _, speed in points)
    between = ", from the least to the greatest" if spreads else ""
    return TextTable(
        title="Speed",
        num_names=int(several),
        columns=(
            *(["curve"] if several else []),
            "fraction",
            "n",
            "by\nlayers",
            "read\ntok/s",
            "by op-\nerations",
            "times\ndense",
            "written\ntok/s",
            "by op-\nerations",
            "times\ndense",
            "weights\nGiB",
            "most\nGiB",
        ),
        rows=rows,
        note=(
            f"{'; '.join(conditions)}. times dense: as fast as the whole model in the same "
            f"round{between}. by layers, by operations: what it would be if time went with the "
            "layers alone, or with the operations of a token. Of a prompt the head reads the last "
            "token alone, of what is written every one; it stays whole, and so does what a step "
            "costs besides its arithmetic."
        ),
    )


def _times(ratio: Spread, spread: bool) -> str:
    return f"{ratio.median:.2f}" + (f" ({ratio.low:.2f}-{ratio.high:.2f})" if spread else "")
