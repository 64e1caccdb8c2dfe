"""Critical fractions as a table of texts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from layerprune.report.curves import Curve, Task
from layerprune.report.falls import FEWEST, RETAINED, Fallen, make_falls
from layerprune.report.statistics import LEVEL, Estimate
from layerprune.report.texts import TextTable

MEANING = (
    "critical: the fraction of layers dropped at which half of the dense model's margin over "
    "chance is gone, on the non-increasing curve nearest to the points. sharpness: the fraction "
    "that it takes to fall from three quarters of the margin to a quarter. "
    f"left: how much of the margin is left where {', '.join(f'{at:.0%}' for at in RETAINED[:-1])} "
    f"and {RETAINED[-1]:.0%} of the layers are dropped. "
    f"[ ]: {LEVEL:.0%} intervals over questions"
)

ENOUGH_SEEDS = 10
"""With fewer, an interval over seeds holds the truth less often than it is meant to."""


@dataclass(frozen=True)
class Critical(TextTable):
    """A row for each curve on each task."""

    falls: tuple[Fallen, ...]
    """Behind the rows, one for each."""


def make_critical(curves: Sequence[Curve], tasks: Sequence[Task]) -> Critical | None:
    """The table; None where of no curve anything can be told: points or questions are too few."""
    falls = make_falls(curves, tasks)
    if all(each.num_points < FEWEST for each in falls):
        return None
    return _table(falls, wide=True)


def fitted(critical: Critical, width: int | None) -> Critical:
    """The table with fewer intervals where it is wider than `width`."""
    if width is None or critical.width <= width:
        return critical
    return _table(critical.falls, wide=False)


def estimated(estimate: Estimate | None, farthest: float, errors: bool = True) -> str:
    """A fraction in percent with its interval: `24.1 [22.0, 26.3]`, `>50.0 [41.7, ...]`."""
    if estimate is None:
        return ""
    value = (
        f">{100 * farthest:.1f}" if math.isinf(estimate.value) else f"{100 * estimate.value:.1f}"
    )
    if not errors or estimate.interval is None or math.isinf(estimate.interval.low):
        return value
    low, high = (
        "..." if math.isinf(end) else f"{100 * end:.1f}"
        for end in (estimate.interval.low, estimate.interval.high)
    )
    return f"{value} [{low}, {high}]"


def _table(falls: Sequence[Fallen], wide: bool) -> Critical:
    return Critical(
        title="Critical fractions",
        num_names=2,
        columns=(
            "curve",
            "task",
            "dense\n%",
            "critical\n% dropped",
            "sharpness\n% dropped",
            *(f"{'left at ' if at == RETAINED[0] else ''}\n{at:.0%}" for at in RETAINED),
        ),
        rows=tuple(_cells(each, wide) for each in falls),
        note=_note(falls),
        falls=tuple(falls),
    )


def _cells(fallen: Fallen, wide: bool) -> tuple[str, ...]:
    start = fallen.name, fallen.task, estimated(fallen.dense, 1.0, wide)
    if fallen.fall is None:
        return *start, "cannot be told", "", *("" for _ in RETAINED)
    fall = fallen.fall
    return (
        *start,
        estimated(fall.critical, fallen.farthest),
        estimated(fall.sharpness, fallen.farthest, wide),
        *("" if each is None else f"{100 * each.value:.0f}" for each in fall.retained),
    )


def _note(falls: Sequence[Fallen]) -> str:
    seeds = any(fallen.num_seeds > 1 for fallen in falls)
    said = [f"{MEANING}{', and over seeds' if seeds else ''}."]
    for task in dict.fromkeys(fallen.task for fallen in falls):
        said += dict.fromkeys(_task(fallen) for fallen in falls if fallen.task == task)
    if any(fallen.fall is not None and fallen.fall.critical.interval is None for fallen in falls):
        said.append("No [ ]: the records lack single answers, or the accuracy is not their mean.")
    if any(fallen.fall is not None and math.isinf(fallen.fall.critical.value) for fallen in falls):
        said.append(">: beyond the last point.")
    said += [
        f"{fallen.name}: the mean of {fallen.num_seeds} seeds"
        f"{'' if fallen.num_seeds >= ENOUGH_SEEDS else ', too few for a full interval'}."
        for fallen in falls
        if fallen.num_seeds > 1
    ]
    said += [f"{fallen.name} on {fallen.task}: {fallen.why}." for fallen in falls if fallen.why]
    return " ".join(dict.fromkeys(said))


def _task(fallen: Fallen) -> str:
    guess = "" if fallen.chance is None else f", guessing evenly {fallen.chance:.1%}"
    most = "" if fallen.majority is None else f", the most common answer {fallen.majority:.1%}"
    return f"{fallen.task}: {fallen.num_questions:,} questions{guess}{most}."
