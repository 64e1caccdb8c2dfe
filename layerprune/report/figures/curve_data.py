"""The numbers behind figures with curves, as rows for Vega-Lite."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from layerprune.analysis.curves import GIVEN, UNHEALED, Curve
from layerprune.record.point import HELDOUT, Point, layer_ranges
from layerprune.record.scores import Measure

BAND_FROM = 8
"""Points of a curve from which on errors are a band: fewer are too far apart to be joined."""

Datum = dict[str, Any]
"""One row; its `kind` is point, dense (the dense model's line), chance (the line of chance) or dip
(the label of one)."""


def accuracy_data(curves: Sequence[Curve], task: str, panel: str = "") -> list[Datum]:
    """Return a row for each point with an accuracy on `task`, each dense model and each chance."""
    data = []
    chances = set()
    for curve in curves:
        for point in curve.points:
            if (accuracy := point.accuracy(task)) is not None:
                score = point.task_scores[task]
                data.append(_point(curve, point, task, accuracy, score.num_samples))
                if score.chance:  # generated answers cannot be guessed: no line at 0
                    chances.add(score.chance)
    dense = (
        (curve, curve.dense.correct_share(task))
        for curve in curves
        if curve.dense is not None and curve.dense.accuracy(task)
    )
    data += dense_lines(dense, "{:.1%}")
    data += [
        {"kind": "chance", "value": chance, "label": f"chance {chance:.1%}"}
        for chance in sorted(chances)
    ]
    return [{**datum, "panel": panel} for datum in _with_errors(data)]


def loss_data(curves: Sequence[Curve], panel: str = "") -> list[Datum]:
    """Return a row for each point, each dense model, and chance."""
    data = [
        _point(curve, point, HELDOUT, loss.measures["loss_normalised"], loss.num_sequences)
        for curve in curves
        for point in curve.points
        for loss in [point.loss]
    ]
    dense = ((curve, curve.dense.loss.normalised) for curve in curves if curve.dense is not None)
    data += dense_lines(dense, "{:.3f}")
    data.append({"kind": "chance", "value": 1.0, "label": "chance 1.0"})
    return [{**datum, "panel": panel} for datum in _with_errors(data)]


def dense_lines(values: Iterable[tuple[Curve, float]], number_format: str) -> list[Datum]:
    """Return a line for each dense model, once where several curves share it.

    If one model has several lines, from several evaluations, the topmost has the label of all.
    """
    values = list(values)
    several = len({curve.first.model.name for curve, _ in values}) > 1
    lines: dict[str, Datum] = {}
    for curve, value in values:
        name = f"{curve.first.model.name}, dense" if several else "dense model"
        # The first curve of a model is one that is not healed, if there is one.
        line = {
            "kind": "dense",
            "model": curve.first.model.name,
            "hue": curve.hue,
            "value": value,
            "label": f"{name} {number_format.format(value)}",
        }
        lines.setdefault(curve.first.comparison_key, line)
    ordered = sorted(lines.values(), key=lambda line: float(line["value"]))
    if not several and len(ordered) > 1:
        low, high = (number_format.format(ordered[index]["value"]) for index in (0, -1))
        for line in ordered:
            line["label"] = ""
        ordered[-1]["label"] = f"dense model {low}" + (f" to {high}" if high != low else "")
    return list(lines.values())


def curve_names(curve: Curve) -> Datum:
    """Return the columns that give a curve its name, colour and shape."""
    return {"curve": curve.label, "hue": curve.hue, "mark": curve.mark}


def point_rows(data: Sequence[Datum]) -> list[Datum]:
    """Return the rows of points, without the lines that they are compared with."""
    return [datum for datum in data if datum["kind"] == "point"]


def greatest_fraction(data: Sequence[Datum]) -> float:
    """Return the end of the axis of fractions; at least 0.1, for a lone dense model."""
    return max([0.1, *(datum["fraction"] for datum in point_rows(data))])


def value_range(data: Sequence[Datum]) -> tuple[float, float]:
    """Return the least value, at least 0, and the greatest one, with their errors."""
    low, high = (
        [float(datum[end if end in datum else "value"]) for datum in data]
        for end in ("low", "high")
    )
    return max(0.0, min(low)), max(high)


def num_curves(data: Sequence[Datum]) -> int:
    """Return the number of curves that have points."""
    return len({datum["curve"] for datum in point_rows(data)})


def error_caption(data: Sequence[Datum]) -> str:
    """Return a caption of the standard errors shown; empty if there are none."""
    kinds = {datum["error"] for datum in point_rows(data)}
    texts = [f"{kind}s" for kind in ("band", "bar") if kind in kinds]
    return f"{' and '.join(texts)}: ±1 standard error" if texts else ""


def _point(curve: Curve, point: Point, task: str, value: Measure, num_samples: int) -> Datum:
    stderr = value.stderr or 0.0
    return {
        "kind": "point",
        **curve_names(curve),
        "healed": "unhealed" if point.recipe == UNHEALED else "healed",
        "recipe": point.recipe,
        "joined": point.plan.strategy != GIVEN,
        "task": task,
        "fraction": point.plan.fraction,
        "layers_dropped": point.num_dropped,
        "layers": layer_ranges(point.plan.dropped),
        "value": value.value,
        "stderr": value.stderr,
        "low": value.value - stderr,
        "high": value.value + stderr,
        "num_samples": num_samples,
    }


def _with_errors(data: Sequence[Datum]) -> list[Datum]:
    """Return the data with the kind of `error` that each point shows, and the place of its `bar`.

    A healed curve's only point has a `lone` label, since there is no line to recognise it by.

    The bars of curves stand side by side around their common `fraction`, within the width of a
    dot: at the same place they would hide each other.
    """
    counts = Counter(datum["curve"] for datum in point_rows(data))
    step = min(0.006, 0.012 / max(1, len(counts))) * greatest_fraction(data)
    middle = (len(counts) - 1) / 2
    offsets = {curve: (index - middle) * step for index, curve in enumerate(counts)}
    for datum in point_rows(data):
        curve = datum["curve"]
        joined = datum["joined"] and counts[curve] >= BAND_FROM
        datum["error"] = "none" if datum["stderr"] is None else "band" if joined else "bar"
        datum["bar"] = datum["fraction"] + offsets[curve]
        lone = counts[curve] == 1 and datum["healed"] == "healed"
        datum["lone"] = datum["recipe"] if lone else ""
    return list(data)
