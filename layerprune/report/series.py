"""The numbers behind the figures with curves, as data that Vega-Lite takes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from layerprune.record.point import HELDOUT
from layerprune.report.curves import NAMED, UNHEALED, Curve
from layerprune.report.entry import Entry, Value, ranges

DENSE_ENOUGH = 8
"""Points from which on a curve's errors are a band: fewer stand too far apart to be joined."""

Datum = dict[str, Any]
"""Of `kind` point, dense (the whole model's line) or chance (the line of guessing evenly)."""


def accuracy_data(curves: Sequence[Curve], task: str, panel: str = "") -> list[Datum]:
    """One datum for each point that has an accuracy on `task`, then the dense models and chance."""
    data = []
    chances = set()
    for curve in curves:
        for entry in curve.entries:
            if (value := entry.accuracy(task)) is not None:
                answers = entry.answers[task]
                data.append(_point(curve, entry, task, value, answers.num_samples))
                if answers.chance:  # nobody guesses what is to be written: no line at 0
                    chances.add(answers.chance)
    dense = [(curve, curve.dense.accuracy(task)) for curve in curves if curve.dense is not None]
    data += dense_lines(((curve, value) for curve, value in dense if value is not None), "{:.1%}")
    data += [
        {"kind": "chance", "value": chance, "label": f"guessing evenly {chance:.1%}"}
        for chance in sorted(chances)
    ]
    return [{**datum, "panel": panel} for datum in _with_errors(data)]


def loss_data(curves: Sequence[Curve]) -> list[Datum]:
    """One datum for each point, then the dense models and guessing tokens evenly."""
    data = [
        _point(curve, entry, HELDOUT, entry.loss.normalised, entry.loss.num_sequences)
        for curve in curves
        for entry in curve.entries
    ]
    dense = ((curve, curve.dense.loss.normalised) for curve in curves if curve.dense is not None)
    data += dense_lines(dense, "{:.3f}")
    return _with_errors([*data, {"kind": "chance", "value": 1.0, "label": "guessing evenly 1.0"}])


def dense_lines(found: Iterable[tuple[Curve, Value]], form: str) -> list[Datum]:
    """A line for each dense model; one that several curves share is there once.

    Of one model that was asked in several ways, the topmost line has the words for all.
    """
    lines: dict[str, Datum] = {}
    found = list(found)
    several = len({curve.first.model for curve, _ in found}) > 1
    for curve, value in found:
        name = f"{curve.first.model}, dense" if several else "dense model"
        # The first curve of a model is one that is not healed, if there is one.
        line = {
            "kind": "dense",
            "model": curve.first.model,
            "hue": curve.hue,
            "value": value.value,
            "label": f"{name} {form.format(value.value)}",
        }
        lines.setdefault(curve.first.ground, line)
    ordered = sorted(lines.values(), key=lambda line: float(line["value"]))
    if not several and len(ordered) > 1:
        low, high = (form.format(ordered[at]["value"]) for at in (0, -1))
        for line in ordered:
            line["label"] = ""
        ordered[-1]["label"] = f"dense model {low}" + (f" to {high}" if high != low else "")
    return list(lines.values())


def points(data: Sequence[Datum]) -> list[Datum]:
    """Those that are points, not lines to compare them with."""
    return [datum for datum in data if datum["kind"] == "point"]


def most_dropped(data: Sequence[Datum]) -> float:
    """The greatest fraction that has to be shown; never nothing, for a lone dense model."""
    return max([0.1, *(datum["fraction"] for datum in points(data))])


def span(data: Sequence[Datum]) -> tuple[float, float]:
    """The least and the greatest value that has to be shown, error bars included."""
    low = [float(datum["low" if datum["kind"] == "point" else "value"]) for datum in data]
    high = [float(datum["high" if datum["kind"] == "point" else "value"]) for datum in data]
    return max(0.0, min(low)), max(high)


def _point(curve: Curve, entry: Entry, task: str, value: Value, num_samples: int) -> Datum:
    stderr = 0.0 if value.stderr is None else value.stderr
    return {
        "kind": "point",
        "curve": curve.label,
        "hue": curve.hue,
        "mark": curve.mark,
        "healed": "not healed" if entry.heal == UNHEALED else "healed",
        "joined": entry.strategy != NAMED,
        "task": task,
        "fraction": entry.fraction,
        "layers_dropped": entry.num_dropped,
        "layers": ranges(entry.dropped),
        "value": value.value,
        "stderr": value.stderr,
        "low": value.value - stderr,
        "high": value.value + stderr,
        "num_samples": num_samples,
    }


def errors_of(data: Sequence[Datum]) -> str:
    """How the figure shows standard errors, in words; nothing if it has none."""
    kinds = {datum["error"] for datum in points(data)}
    said = [f"{kind}s" for kind in ("band", "bar") if kind in kinds]
    return f"{' and '.join(said)}: ±1 standard error" if said else ""


def num_curves(data: Sequence[Datum]) -> int:
    """Of how many curves there are points."""
    return len({datum["curve"] for datum in points(data)})


def _with_errors(data: Sequence[Datum]) -> list[Datum]:
    """The data with the `error` that each point shows, and a place for it if that is a bar.

    A bar stands at `bar`, a hair beside its `fraction`: those of several curves would hide each
    other; each stays within its own point's width.
    """
    counts = Counter(datum["curve"] for datum in points(data))
    curves = list(counts)
    places = {curve: at for at, curve in enumerate(curves)}
    step = min(0.006, 0.012 / max(1, len(curves))) * most_dropped(data)
    middle = (len(curves) - 1) / 2
    return [
        {
            **datum,
            "error": _error(datum, counts[datum["curve"]]),
            "bar": datum["fraction"] + (places[datum["curve"]] - middle) * step,
        }
        if datum["kind"] == "point"
        else datum
        for datum in data
    ]


def _error(datum: Datum, num_points: int) -> str:
    if datum["stderr"] is None:
        return "none"
    return "band" if datum["joined"] and num_points >= DENSE_ENOUGH else "bar"
