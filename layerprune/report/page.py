"""The report as one HTML file that needs nothing else: text, tables, figures, scripts."""

import base64
import functools
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import vl_convert

from layerprune.report.curves import Curve
from layerprune.report.figures import HEALING, VEGA_LITE, Figure
from layerprune.report.healed import Healed
from layerprune.report.summary import GLANCE, MOST, Finding, sentences
from layerprune.report.table import Grid, notes_once

HERE = Path(__file__).parent

POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
)
"""What a browser lets the page do: nothing that needs a network. Vega compiles its expressions."""


def make_page(
    curves: Sequence[Curve],
    found: Sequence[Finding],
    figures: Sequence[tuple[Figure, str]],
    healed: Healed | None,
    grids: Sequence[Grid],
    made: Sequence[tuple[str, Sequence[str]]],
) -> str:
    """The page. Each figure comes with its SVG, which stands there until its script has run."""
    models = list(dict.fromkeys(curve.first.model for curve in curves))
    what = ", ".join(models) if len(models) <= MOST else f"{len(models)} models"
    title = f"Layers dropped: {what}"
    under = {} if healed is None else {HEALING: _healed(healed)}
    parts = [_figure(figure, svg, under.pop(figure.name, "")) for figure, svg in figures]
    targets = [(figure.name, figure.title) for figure, _ in figures]
    if healed is not None and under:  # healed without training: there is no figure to stand under
        head = f'<section id="{HEALING}">\n<h2>{escape(healed.title)}</h2>'
        parts.append(f"{head}\n{under[HEALING]}</section>\n")
        targets.append((HEALING, healed.title))
    targets += [
        ("numbers", "All numbers"),
        ("making", "How it was made"),
    ]
    links = [f'<a href="#{escape(name)}">{escape(said)}</a>' for name, said in targets]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{_beside("page.css")}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p>{_unbroken(escape(" ".join(sentences(curves, found))))}</p>
{_glance(found) if len(found) > MOST else ""}
<nav>{" ".join(links)}</nav>
{"".join(parts)}
<section id="numbers">
<h2>All numbers</h2>
{"".join(_table(grid, note) for grid, note in notes_once(grids))}
<p class="note">Every task and subject is in curves.csv, in the folder of this page.</p>
</section>
<section id="making">
<h2>How it was made</h2>
<dl>
{"".join(_made(name, values) for name, values in made)}</dl>
</section>
</main>
<script>
{_bundle()}
</script>
<script>
{_beside("page.js")}</script>
</body>
</html>
"""


def embedded_json(content: Any) -> str:
    """`content` as JSON that can stand inside a script element, whatever texts it holds."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _figure(figure: Figure, svg: str, under: str) -> str:
    name = escape(figure.name)
    picture = base64.b64encode(svg.encode()).decode()
    return f"""<section id="{name}">
<h2>{escape(figure.title)}</h2>
<figure>
<div class="card" data-spec="spec-{name}" data-panel="{figure.panel}">
<img src="data:image/svg+xml;base64,{picture}" alt="{escape(figure.alt)}">
<div class="chart"></div>
</div>
<figcaption>{escape(figure.caption)}</figcaption>
</figure>
<script type="application/json" id="spec-{name}">{embedded_json(figure.spec)}</script>
{under}</section>
"""


def _glance(found: Sequence[Finding]) -> str:
    """How far each curve holds, one line each."""
    head = "".join(f"<th>{escape(name)}</th>" for name in GLANCE)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in finding.cells) + "</tr>\n"
        for finding in found
    )
    return f"""<div class="scroll">
<table class="glance">
<thead>
<tr>{head}</tr>
</thead>
<tbody>
{rows}</tbody>
</table>
</div>"""


def _healed(healed: Healed) -> str:
    """What healing cost and gave, one line each."""
    head = "".join(f"<th>{_broken(escape(name))}</th>" for name in healed.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>\n"
        for row in healed.rows
    )
    return f"""<div class="scroll under">
<table class="healed">
<thead>
<tr>{head}</tr>
</thead>
<tbody>
{rows}</tbody>
</table>
</div>
<p class="note">{escape(healed.note)}</p>
"""


def _broken(text: str) -> str:
    """`text` with its lines as lines."""
    return text.replace("\n", "<br>")


def _unbroken(text: str) -> str:
    """`text` with numbers and their errors kept in one line."""
    return text.replace(" ± ", "&#160;±&#160;")


def _table(grid: Grid, note: str) -> str:
    # With one curve, the title names it.
    head = "".join(
        f'<th class="block" colspan="{len(grid.columns)}">{escape(block)}</th>'
        for block in grid.blocks
        if len(grid.blocks) > 1
    )
    head = f"<tr><th></th><th></th>{head}</tr>\n" if head else ""
    names = "<th>fraction</th><th>n</th>" + "".join(
        _cell("th", column, column) for _ in grid.blocks for column in grid.columns
    )
    columns = ("", "", *grid.columns * len(grid.blocks))
    rows = "".join(
        "<tr>" + "".join(map(_cell, ["td"] * len(row), columns, row)) + "</tr>\n"
        for row in grid.rows
    )
    return f"""<div class="scroll">
<table>
<caption>{escape(grid.title)}</caption>
<thead>
{head}<tr>{names}</tr>
</thead>
<tbody>
{rows}</tbody>
</table>
</div>
{f'<p class="note">{escape(note)}</p>' if note else ""}
"""


def _cell(tag: str, column: str, text: str) -> str:
    """A cell; the list of layers, which starts a curve's block, reads from the left."""
    style = ' class="layers block-start"' if column == "layers" else ""
    return f"<{tag}{style}>{escape(text)}</{tag}>"


def _made(name: str, values: Sequence[str]) -> str:
    said = "<br>".join(escape(value) for value in values)
    return f"<dt>{escape(name)}</dt><dd>{said}</dd>\n"


def _beside(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


@functools.cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, out of the wheel of vl-convert."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
    # Inside a script element this would end it; in JavaScript's texts `<\\/` is the same.
    return bundle.replace("</script", "<\\/script")
