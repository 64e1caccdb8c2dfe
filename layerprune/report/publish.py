"""Tables to go: critical fractions as CSV, Markdown and LaTeX, the curves' numbers as Parquet."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from layerprune.report.critical import MEANING, estimated
from layerprune.report.falls import RETAINED, Fallen
from layerprune.report.rows import Row
from layerprune.report.statistics import Estimate

CRITICAL_HEADER = (
    "model", "strategy", "metric", "heal", "seeds", "curve", "task", "questions", "points",
    "farthest", "dense", "dense_low", "dense_high", "chance", "majority",
    *(f"{name}{end}"
      for name in ("critical", "sharpness", *(f"left_{100 * at:.0f}" for at in RETAINED))
      for end in ("", "_low", "_high")),
    "why",
)  # fmt: skip
"""Of `critical.csv`. `farthest` is the greatest fraction measured."""

COLUMNS = (
    "model", "strategy", "metric", "heal", "seeds", "task", "questions", "points", "dense",
    "chance", "majority", "critical", "sharpness", *(f"left at {at:.0%}" for at in RETAINED),
)  # fmt: skip
"""Of the tables to be read: accuracies and fractions in percent."""

NAMES = 6
"""Columns that are no numbers."""

SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip
"""What LaTeX takes for more than a character."""


def critical_csv(falls: Sequence[Fallen]) -> str:
    """One line for each curve on each task; shares, not percent; empty where nothing can be told.

    A fraction beyond the last point is `inf`, and so is the end of an interval there.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, CRITICAL_HEADER, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dict(_numbers(fallen)) for fallen in falls)
    return out.getvalue()


def critical_markdown(falls: Sequence[Fallen]) -> str:
    """The table in Markdown, and below it what it says."""
    lines = markdown(COLUMNS, NAMES, [_texts(each) for each in falls])
    return "\n".join([*lines, "", f"{MEANING}, in percent.", *_reasons(falls), ""])


def markdown(columns: Sequence[str], num_names: int, rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table, whose first `num_names` columns read from the left."""
    return [
        _line(columns),
        _line([":--" if at < num_names else "--:" for at in range(len(columns))]),
        *(_line([re.sub(r"([\\|*_`<\[])", r"\\\1", text) for text in row]) for row in rows),
    ]


def critical_latex(falls: Sequence[Fallen]) -> str:
    """The table in LaTeX, for a document that uses the package booktabs."""
    lines = [
        f"% {MEANING}, in percent.",
        *(f"% {reason}" for reason in _reasons(falls)),
        rf"\begin{{tabular}}{{{'l' * NAMES}{'r' * (len(COLUMNS) - NAMES)}}}",
        r"\toprule",
        _latex(COLUMNS),
        r"\midrule",
        *(_latex(_texts(each)) for each in falls),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join([*lines, ""])


def write_parquet(rows: Sequence[Row], path: Path) -> None:
    """Write the rows of `curves.csv` as Parquet: the same columns, each with its type."""
    import pyarrow as pa
    from pyarrow import parquet

    kinds: dict[Any, Any] = {
        str: pa.string(),
        int: pa.int64(),
        int | None: pa.int64(),
        float: pa.float64(),
        float | None: pa.float64(),
    }
    schema = pa.schema([(name, kinds[kind]) for name, kind in Row.__annotations__.items()])
    columns = zip(*rows, strict=True)
    arrays = [pa.array(of, kind) for of, kind in zip(columns, schema.types, strict=True)]
    parquet.write_table(pa.table(arrays, schema=schema), path)


def _numbers(fallen: Fallen) -> Iterator[tuple[str, Any]]:
    first = fallen.curve.first
    yield "model", first.model
    yield "strategy", first.strategy
    yield "metric", first.metric
    yield "heal", first.heal
    yield "seeds", fallen.num_seeds
    yield "curve", fallen.name
    yield "task", fallen.task
    yield "questions", fallen.num_questions
    yield "points", fallen.num_points
    yield "farthest", fallen.farthest
    yield from _estimate("dense", fallen.dense)
    yield "chance", fallen.chance
    yield "majority", fallen.majority
    critical, sharpness, retained = _told(fallen)
    yield from _estimate("critical", critical)
    yield from _estimate("sharpness", sharpness)
    for at, left in zip(RETAINED, retained, strict=True):
        yield from _estimate(f"left_{100 * at:.0f}", left)
    yield "why", fallen.why


def _estimate(name: str, estimate: Estimate | None) -> Iterator[tuple[str, float | None]]:
    interval = None if estimate is None else estimate.interval
    yield name, None if estimate is None else estimate.value
    yield f"{name}_low", None if interval is None else interval.low
    yield f"{name}_high", None if interval is None else interval.high


def _told(
    fallen: Fallen,
) -> tuple[Estimate | None, Estimate | None, tuple[Estimate | None, ...]]:
    """Critical fraction, sharpness and what is left at each of `RETAINED`, if it can be told."""
    fall = fallen.fall
    if fall is None:
        return None, None, (None,) * len(RETAINED)
    return fall.critical, fall.sharpness, fall.retained


def _texts(fallen: Fallen) -> list[str]:
    first = fallen.curve.first
    critical, sharpness, retained = _told(fallen)
    return [
        first.model,
        first.strategy,
        first.metric,
        first.heal,
        str(fallen.num_seeds),
        fallen.task,
        f"{fallen.num_questions:,}",
        str(fallen.num_points),
        estimated(fallen.dense, 1.0),
        *("" if each is None else f"{100 * each:.1f}" for each in (fallen.chance, fallen.majority)),
        *(estimated(each, fallen.farthest) for each in (critical, sharpness)),
        *(estimated(each, 1.0) for each in retained),
    ]


def _reasons(falls: Sequence[Fallen]) -> list[str]:
    return [f"{fallen.name} on {fallen.task}: {fallen.why}." for fallen in falls if fallen.why]


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _latex(texts: Sequence[str]) -> str:
    escaped = ("".join(SPECIAL.get(sign, sign) for sign in text) for text in texts)
    return f"{' & '.join(escaped)} \\\\"
