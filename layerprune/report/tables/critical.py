"""Critical fractions as tables: for the page and a terminal, and to publish."""

import math
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from layerprune.analysis.critical import MIN_POINTS, RETAINED, CurveDecline, curve_declines
from layerprune.analysis.curves import Curve, Task
from layerprune.analysis.statistics import LEVEL, Estimate
from layerprune.record.point import layer_ranges
from layerprune.report.tables.text_table import (
    TextTable,
    fitting,
    table_of,
    to_csv,
    to_latex,
    to_markdown,
)

DEPTHS = tuple(f"{fraction:.0%}" for fraction in RETAINED)

MEANING = (
    "critical: the fraction of layers dropped at which half of the dense model's margin over "
    "chance is gone, on the non-increasing curve nearest to the points. sharpness: the fraction "
    "that it takes to fall from three quarters of the margin to a quarter; <: less than that, "
    "which the points are too far apart to tell. "
    f"left: how much of the margin is left where {', '.join(DEPTHS[:-1])} "
    f"and {DEPTHS[-1]} of the layers are dropped. "
    "Between points more than a layer apart the curve may fall anywhere: intervals include this. "
    f"[ ]: {LEVEL:.0%} intervals over questions"
)

ENOUGH_SEEDS = 10
"""With fewer, the coverage of an interval over seeds is below its nominal level."""

ESTIMATES = ("critical", "sharpness", *(f"left_{100 * fraction:.0f}" for fraction in RETAINED))

COLUMNS = (
    "model", "strategy", "metric", "heal", "seeds", "curve", "task", "questions", "points",
    "farthest", "dense", "chance", "majority", *ESTIMATES, "dips", "why",
)  # fmt: skip
"""What is known of a curve on a task. `farthest` is the greatest fraction measured."""

PUBLISHED = tuple(name for name in COLUMNS if name not in ("curve", "farthest", "dips", "why"))
"""The columns of `critical.md` and `critical.tex`: accuracies and fractions in percent."""


def critical_declines(curves: Sequence[Curve], tasks: Sequence[Task]) -> list[CurveDecline]:
    """Return the fall of each curve on each task; none if every curve has too few points."""
    declines = curve_declines(curves, tasks)
    return declines if any(row.num_points >= MIN_POINTS for row in declines) else []


def critical_table(declines: Sequence[CurveDecline], width: int | None = None) -> TextTable | None:
    """Return a row for each curve on each task; None without any.

    Where the table is wider than `width`, only the critical fractions keep their intervals.
    """
    return fitting(partial(_table, declines), width) if declines else None


def critical_csv(declines: Sequence[CurveDecline]) -> str:
    """Return a line for each curve on each task; fractions of 1, empty where undefined.

    A fraction beyond the last point is `inf`, and so is the end of an interval there.
    """
    header = [
        f"{name}{end}"
        for name in COLUMNS
        for end in (("", "_low", "_high") if name in ("dense", *ESTIMATES) else ("",))
    ]
    rows = []
    for row in declines:
        cells = _values(row)
        for name, estimate in list(cells.items()):
            if isinstance(estimate, Estimate):
                cells[name] = estimate.value
                if estimate.interval is not None:
                    cells[f"{name}_low"] = estimate.interval.low
                    cells[f"{name}_high"] = estimate.interval.high
        rows.append(cells)
    return to_csv(rows, header)


def critical_markdown(declines: Sequence[CurveDecline]) -> str:
    """Return the table to publish in Markdown, and below it the meaning of its columns."""
    table = to_markdown(*published(declines))
    return "\n".join([table, "", f"{MEANING}, in percent.", *_remarks(declines), ""])


def critical_latex(declines: Sequence[CurveDecline]) -> str:
    """Return the table to publish in LaTeX, for a document that uses the package booktabs."""
    comments = [f"% {line}\n" for line in (f"{MEANING}, in percent.", *_remarks(declines))]
    return "".join(comments) + to_latex(*published(declines))


def estimated(estimate: Estimate | None, farthest: float, errors: bool = True) -> str:
    """Return a fraction in percent with its interval.

    `24.1 [22.0, 26.3]`; `>50.0 [41.7, ...]` beyond the points, `<6.7` if they do not resolve it,
    `unresolved` if they do not even bound it.
    """
    if estimate is None:
        return ""
    if estimate.value is None:
        assert estimate.interval is not None
        bound = estimate.interval.high
        return "unresolved" if math.isinf(bound) else f"<{100 * bound:.1f}"
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


def _table(declines: Sequence[CurveDecline], wide: bool) -> TextTable:
    def cells(row: CurveDecline) -> Iterator[tuple[str, str]]:
        critical, sharpness, *retained = _estimates(row).values()
        yield "curve", row.name
        yield "task", row.task
        yield "dense\n%", estimated(row.dense, 1.0, wide)
        yield "critical\n% dropped", estimated(critical, row.farthest) or "undefined"
        yield "sharpness\n% dropped", estimated(sharpness, row.farthest, wide)
        for depth, left in zip(DEPTHS, retained, strict=True):
            name = f"left at \n{depth}" if depth == DEPTHS[0] else f"\n{depth}"
            yield name, f"{100 * left.value:.0f}" if left and left.value is not None else ""

    return table_of("Critical fractions", 2, map(cells, declines), _note(declines))


def _note(declines: Sequence[CurveDecline]) -> str:
    seeds = any(row.num_seeds > 1 for row in declines)
    lines = [f"{MEANING}{', and over seeds' if seeds else ''}."]
    for task in dict.fromkeys(row.task for row in declines):
        lines += [_task_note(row) for row in declines if row.task == task]
    defined = [row.decline.critical for row in declines if row.decline is not None]
    if any(critical.interval is None for critical in defined):
        lines.append("No [ ]: the records lack single answers, or the accuracy is not their mean.")
    if any(critical.value == math.inf for critical in defined):
        lines.append(">: beyond the last point.")
    lines += [
        f"{row.name}: the mean of {row.num_seeds} seeds"
        f"{'' if row.num_seeds >= ENOUGH_SEEDS else ', too few for a full interval'}."
        for row in declines
        if row.num_seeds > 1
    ]
    return " ".join(dict.fromkeys([*lines, *_remarks(declines)]))


def _task_note(row: CurveDecline) -> str:
    chance = "" if row.chance is None else f", chance {row.chance:.1%}"
    majority = "" if row.majority is None else f", the most common answer {row.majority:.1%}"
    return f"{row.task}: {row.num_questions:,} questions{chance}{majority}."


def _remarks(declines: Sequence[CurveDecline]) -> list[str]:
    """Return why the critical fractions of some curves are undefined, and where others dip."""
    reasons = [f"{row.name} on {row.task}: {row.why}." for row in declines if row.why]
    return reasons + [
        f"{row.name} on {row.task} dips: with n = {layer_ranges(row.dips)} layers removed it "
        "answers fewer questions than with more of them removed, beyond noise. The non-increasing "
        "curve averages over this."
        for row in declines
        if row.dips and not row.why
    ]


def _values(row: CurveDecline) -> dict[str, Any]:
    """Return the values of `COLUMNS`: texts, numbers and estimates."""
    first = row.curve.first
    return {
        "model": first.model.name,
        "strategy": first.plan.strategy,
        "metric": first.plan.metric,
        "heal": first.recipe,
        "seeds": row.num_seeds,
        "curve": row.name,
        "task": row.task,
        "questions": row.num_questions,
        "points": row.num_points,
        "farthest": row.farthest,
        "dense": row.dense,
        "chance": row.chance,
        "majority": row.majority,
        **_estimates(row),
        "dips": layer_ranges(row.dips) if row.dips else "",
        "why": row.why,
    }


def _estimates(row: CurveDecline) -> dict[str, Estimate | None]:
    decline = row.decline
    if decline is None:
        return dict.fromkeys(ESTIMATES)
    return dict(
        zip(ESTIMATES, (decline.critical, decline.sharpness, *decline.retained), strict=True)
    )


def published(declines: Sequence[CurveDecline]) -> tuple[list[str], int, list[list[str]]]:
    """Return the columns to publish, the number of those with names, and the rows."""
    columns = [re.sub(r"left_(\d+)", r"left at \1%", name) for name in PUBLISHED]
    rows = [
        [_text(value, row.farthest) for name, value in _values(row).items() if name in PUBLISHED]
        for row in declines
    ]
    return columns, columns.index("questions"), rows


def _text(value: str | float | Estimate | None, farthest: float) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return estimated(Estimate(value, None) if isinstance(value, float) else value, farthest)
