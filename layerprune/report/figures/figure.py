"""One figure: its chart as a Vega-Lite specification, its data, caption and description."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import altair as alt

from layerprune.analysis.curves import Curve
from layerprune.record.point import content_hash
from layerprune.report.figures import theme
from layerprune.report.figures.curve_data import Datum
from layerprune.report.figures.render import svg_of
from layerprune.report.tables.text_table import to_csv

VEGA_LITE = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
"""The version that altair writes, as vl-convert names it: `6.4`."""

MAX_NUMBERS = 240
"""Numbers in a description; the others are in `curves.csv`."""


@dataclass(frozen=True)
class Figure:
    """A chart and the words around it."""

    name: str
    """Name of its files, without suffix."""
    title: str
    caption: str
    spec: dict[str, Any]
    """In Vega-Lite."""
    panel: int
    """Pixels from one panel to the next; 0 for a figure with a single panel."""
    facts: dict[str, str]
    """The model and the metric of a figure that is about one only."""

    @property
    def alt(self) -> str:
        """The numbers as text, for readers who do not see the picture."""
        return str(self.spec["description"])

    @property
    def data(self) -> list[Datum]:
        """The rows that the chart draws."""
        values: list[Datum] = self.spec["data"]["values"]
        return values

    def csv(self) -> str:
        """Return the data as CSV, with an empty cell where a row lacks a column."""
        return to_csv(self.data)

    def svg(self) -> str:
        """Return the picture as SVG."""
        return svg_of(self.spec, VEGA_LITE)


def make_figure(
    name: str,
    title: str,
    caption: str,
    summary: str,
    numbers: str,
    chart: alt.TopLevelMixin | dict[str, Any],
    data: Sequence[Datum],
    panel: int = 0,
    params: Sequence[dict[str, Any]] = (),
    facts: dict[str, str] | None = None,
) -> Figure:
    """Return the figure of a chart with `data`, described by its summary and its numbers.

    Without `panel`, the figure has the panels of a chart in facets, or a single one.
    """
    # A test validates specifications: here it would take seconds for a chart with many panels.
    spec = chart if isinstance(chart, dict) else chart.to_dict(validate=False)
    if "facet" in spec:
        panel = spec["spec"]["width"] + spec["spacing"]["column"]
    spec["data"] = {"values": list(data)}
    if params:
        spec["params"] = list(params)
    spec["config"] = theme.vega_config()
    spec["description"] = f"{summary} {numbers}."
    return Figure(name, title, caption, spec, panel, facts or {})


def sample_curves(curves: Sequence[Curve], num_points: int) -> list[Curve]:
    """Return the curves, or as many as have `num_points` together: first one of every colour."""
    seen: Counter[str] = Counter()
    repeats = []
    for curve in curves:
        repeats.append(seen[curve.hue])
        seen[curve.hue] += 1
    ranked = sorted(range(len(curves)), key=repeats.__getitem__)
    points = accumulate(len(curves[index].points) for index in ranked)
    chosen = [index for index, total in zip(ranked, points, strict=True) if total <= num_points]
    return [curves[index] for index in sorted(chosen or ranked[:1])]


def columnar(data: Sequence[Datum]) -> dict[str, Any]:
    """Return rows by columns, in few characters: a page holds thousands of rows.

    `length` is the number of rows, and each column has its `values`. If values repeat, `values`
    has each of them once, and `at` its index for each row: -1 for a row without that column.
    """
    columns = {}
    for name in dict.fromkeys(name for datum in data for name in datum):
        # True == 1 == 1.0, but JSON writes them differently: compare types too.
        indices: dict[tuple[type, Any], int] = {}
        rows = [
            indices.setdefault((type(datum[name]), datum[name]), len(indices))
            if name in datum
            else -1
            for datum in data
        ]
        if len(indices) > len(rows) / 2 and -1 not in rows:
            columns[name] = {"values": [datum[name] for datum in data]}
        else:
            columns[name] = {"values": [value for _, value in indices], "at": rows}
    return {"length": len(data), "columns": columns}


def described(data: Sequence[Datum], template: str) -> str:
    """Return rows as one text, each by a format string of its columns."""
    return limited([template.format(**datum) for datum in data])


def limited(numbers: Sequence[str]) -> str:
    """Return numbers as one text, short enough to be listened to."""
    more = len(numbers) - MAX_NUMBERS
    tail = f"; and {more} more in curves.csv" if more > 0 else ""
    return "; ".join(numbers[:MAX_NUMBERS]) + tail


def slug(name: str) -> str:
    """Return `name` as part of a file name, with a hash of it if characters were replaced."""
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60]
    return short if short == name else f"{short.strip('.-')}-{content_hash(name)[:6]}"
