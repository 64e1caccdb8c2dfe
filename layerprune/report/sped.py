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


def make_sped(curves: Sequence[Curve]) -> TextTable | None:
    """The table; None if no point's speed was measured."""
    points = timed(curves)
    if not points:
        return None
    several = len({curve.label for curve, _, _ in points}) > 1
    rows = tuple(
        (
            *([curve.label] if several else []),
            f"{entry.fraction:.1%}",
            str(entry.num_dropped),
            f"{speed.pruned.prefill.median:,.0f}",
            _times(speed.prefill_ratio),
            f"{speed.pruned.decode.median:,.1f}",
            _times(speed.decode_ratio),
            f"{speed.counted_ratio:.2f}",
            f"{ideal_ratio(entry):.2f}",
            f"{1000 * speed.pruned.first_token_s.median:,.0f}",
            f"{speed.pruned.weight_bytes / 2**30:.2f}",
            f"{speed.pruned.peak_bytes / 2**30:.2f}",
        )
        for curve, entry, speed in points
    )
    conditions = dict.fromkeys(speed.conditions for _, _, speed in points)
    return TextTable(
        title="Speed",
        num_names=int(several),
        columns=(
            *(["curve"] if several else []),
            "fraction",
            "n",
            "read\ntok/s",
            "times\ndense",
            "written\ntok/s",
            "times\ndense",
            "opera-\ntions",
            "layers",
            "first\nms",
            "weights\nGiB",
            "most\nGiB",
        ),
        rows=rows,
        note=(
            f"{'; '.join(conditions)}. times dense: as fast as the whole model in the same round, "
            "from the least to the greatest. operations, layers: what it would be if time went "
            "with the operations of a token alone, or with the layers alone. The head and the "
            "embeddings stay whole, and so does what a step costs besides its arithmetic."
        ),
    )


def _times(ratio: Spread) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
