"""One figure: a picture as a specification, and all that is said of it."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt

from layerprune.record.point import content_hash
from layerprune.report import style
from layerprune.report.curves import Curve
from layerprune.report.render import svg_of
from layerprune.report.series import Datum

VEGA_LITE = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
"""The version that altair writes, as vl-convert names it: `6.4`."""

MOST_NUMBERS = 240
"""Numbers in the text for those who do not see a figure; the rest is in `curves.csv`."""


@dataclass(frozen=True)
class Figure:
    """A picture, and what is said of it."""

    name: str
    """Of its files, without suffix."""
    title: str
    caption: str
    alt: str
    """The numbers, for those who do not see the picture."""
    spec: dict[str, Any]
    """In Vega-Lite."""
    panel: int
    """Pixels from one of its panels to the next; 0 if it has one panel only."""
    facts: dict[str, str] = field(default_factory=dict)
    """The model and the metric of a figure that is about one only."""

    @property
    def data(self) -> list[Datum]:
        """The numbers that it is drawn from."""
        values: list[Datum] = self.spec["data"]["values"]
        return values

    def csv(self) -> str:
        """Its data as CSV: a column for each field of any datum, nothing where one has none."""
        out = io.StringIO()
        names = list(dict.fromkeys(name for datum in self.data for name in datum))
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.data)
        return out.getvalue()

    def svg(self) -> str:
        """The picture as SVG."""
        return svg_of(self.spec, VEGA_LITE)


def make_figure(
    name: str,
    title: str,
    caption: str,
    spoken: str,
    chart: alt.TopLevelMixin | dict[str, Any],
    data: Sequence[Datum],
    panel: int = 0,
    params: Sequence[dict[str, Any]] = (),
    facts: dict[str, str] | None = None,
) -> Figure:
    """A figure of a chart on `data`; `spoken` is its text for those who do not see it."""
    # The tests hold specifications against Vega-Lite's schema: with many panels it takes seconds.
    spec = chart if isinstance(chart, dict) else chart.to_dict(validate=False)
    spec["data"] = {"values": list(data)}
    if params:
        spec["params"] = list(params)
    spec["config"] = style.config(stacked=len(params) > 2)
    spec["description"] = spoken
    return Figure(name, title, caption, spoken, spec, panel, facts or {})


def few(curves: Sequence[Curve], num_points: int) -> list[Curve]:
    """The curves, or so many that they have `num_points` at most: first one of every colour."""
    seen: Counter[str] = Counter()
    ranked = []
    for at, curve in enumerate(curves):
        ranked.append((seen[curve.hue], at))
        seen[curve.hue] += 1
    chosen: list[int] = []
    for _, at in sorted(ranked):
        num_points -= len(curves[at].entries)
        if num_points < 0 and chosen:
            break
        chosen.append(at)
    return [curves[at] for at in sorted(chosen)]


def limited(said: Sequence[str]) -> str:
    """Numbers as one text, so many that it can be listened to."""
    more = len(said) - MOST_NUMBERS
    tail = f"; and {more} more in curves.csv" if more > 0 else ""
    return "; ".join(said[:MOST_NUMBERS]) + tail


def slug(name: str) -> str:
    """`name` as part of a file's name; with a hash of it where characters had to go."""
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60]
    return short if short == name else f"{short.strip('.-')}-{content_hash(name)[:6]}"
