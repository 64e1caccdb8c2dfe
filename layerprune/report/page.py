"""The report as one self-contained HTML page: text, tables, figures and scripts."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from layerprune.analysis.curves import UNHEALED, Curve
from layerprune.report import Report
from layerprune.report.figures import theme
from layerprune.report.figures.chart import MAX_ERROR_CURVES
from layerprune.report.figures.cost_figures import SPEED
from layerprune.report.figures.figure import Figure, columnar
from layerprune.report.figures.healing_figure import HEALING
from layerprune.report.tables.critical import critical_table
from layerprune.report.tables.healing_table import make_healing_table
from layerprune.report.tables.points import point_tables
from layerprune.report.tables.provenance import provenance_facts
from layerprune.report.tables.speed_table import make_speed_table
from layerprune.report.tables.summary import MOST, findings, glance_table, sentences
from layerprune.report.tables.text_table import WIDTH, TextTable

DIMENSIONS = ("model", "metric", "strategy", "recipe", "seed")
"""The facts of a curve by which the reader can hide it in all figures."""


@dataclass(frozen=True)
class Section:
    """A part of the page with a link to it: a figure, a table, or a table below its figure."""

    name: str
    title: str
    figure: Figure | None = None
    image: str = ""
    """The data URI of the figure's picture."""
    table: TextTable | None = None


def make_page(report: Report, figures: Sequence[tuple[Figure, str]], bundle: str) -> str:
    """Return the page; `bundle` is the script that draws.

    Each figure comes with the data URI of a picture, which is shown until the scripts have run.
    """
    curves = report.curves
    models = list(dict.fromkeys(curve.first.model.name for curve in curves))
    rows = findings(curves, report.tasks)
    names = ", ".join(models) if len(models) <= MOST else f"{len(models)} models"
    return _environment().get_template("page.html").render(
        title=f"Layers removed: {names}",
        summary=" ".join(sentences(curves, rows)),
        glance=glance_table(rows) if len(rows) > MOST else None,
        choices=choices(curves),
        sections=list(_sections(report, figures)),
        point_tables=point_tables(curves, report.tasks, WIDTH),
        provenance=provenance_facts(curves, report.profiles),
        curves={curve.label: facts_of(curve) for curve in curves},
        dark=theme.DARK,
        most_errors=MAX_ERROR_CURVES,
        bundle=bundle,
    )  # fmt: skip


def _sections(report: Report, figures: Sequence[tuple[Figure, str]]) -> Iterator[Section]:
    """Yield the search, the figures with the tables below them, and tables without a figure."""
    for index, table in enumerate(report.search_tables):
        yield Section(f"fit-{index}", table.title, table=table)
    healing = make_healing_table(report.curves, report.tasks)
    below = {HEALING: healing, SPEED: make_speed_table(report.curves)}
    for figure, image in figures:
        yield Section(figure.name, figure.title, figure, image, below.pop(figure.name, None))
    # Recipes that train nothing have a table, and no figure.
    if healing is not None and HEALING in below:
        yield Section(HEALING, "Healing", table=healing)
    if (critical := critical_table(report.critical)) is not None:
        yield Section("critical", critical.title, table=critical)


def facts_of(curve: Curve) -> dict[str, str]:
    """Return a curve's facts by `DIMENSIONS`."""
    first = curve.first
    recipe = first.recipe if first.recipe != UNHEALED else "not healed"
    values = (first.model.name, first.plan.metric, first.plan.strategy, recipe, str(first.seed))
    return dict(zip(DIMENSIONS, values, strict=True))


def choices(curves: Sequence[Curve]) -> dict[str, list[str]]:
    """Return the different values of each dimension that varies."""
    facts = [facts_of(curve) for curve in curves]
    values = {name: list(dict.fromkeys(fact[name] for fact in facts)) for name in DIMENSIONS}
    return {name: several for name, several in values.items() if len(several) > 1}


def script_json(content: Any) -> Markup:
    """Return `content` as JSON for a script element, whatever texts are in it."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"columnar": columnar, "json": json.dumps, "script_json": script_json}
    return environment
