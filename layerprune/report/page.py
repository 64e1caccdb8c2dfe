"""The report as one HTML file that needs nothing else: text, tables, figures, scripts."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from layerprune.report import style
from layerprune.report.controls import controls, facts_of
from layerprune.report.curves import Curve
from layerprune.report.lines import MOST_ERRORS
from layerprune.report.packed import packed
from layerprune.report.pictures import Picture
from layerprune.report.speed import SPEED
from layerprune.report.summary import GLANCE, MOST, Finding, sentences
from layerprune.report.table import Grid, notes_once
from layerprune.report.texts import TextTable
from layerprune.report.training import HEALING

HERE = Path(__file__).parent

HELD = "How far each curve keeps its accuracy"
GIVEN = "What healing took and gave"
FASTER = "How fast each cut model is beside the whole one"
FALLEN = "Where each curve has lost half of its margin over guessing"

POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
)
"""What a browser lets the page do: nothing that needs a network. Vega compiles its expressions."""


def make_page(
    curves: Sequence[Curve],
    found: Sequence[Finding],
    pictures: Sequence[Picture],
    bundle: str,
    healed: TextTable | None,
    sped: TextTable | None,
    critical: TextTable | None,
    fitted: Sequence[TextTable],
    grids: Sequence[Grid],
    made: Sequence[tuple[str, Sequence[str]]],
) -> str:
    """The page, with the scripts that draw as `bundle`.

    Each figure comes with a picture, which stands there until the scripts have run.
    """
    models = list(dict.fromkeys(curve.first.model for curve in curves))
    what = ", ".join(models) if len(models) <= MOST else f"{len(models)} models"
    title = f"Layers dropped: {what}"
    sections = list(_sections(pictures, healed, sped, critical, fitted))
    targets = [*((each.name, each.title) for each in sections), *AT_THE_END]
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
<a class="skip" href="#content">Skip to the content</a>
<main id="content">
<h1>{escape(title)}</h1>
<p>{_unbroken(escape(" ".join(sentences(curves, found))))}</p>
{_glance(found) if len(found) > MOST else ""}
<nav aria-label="Figures and tables">{" ".join(links)}</nav>
{controls(curves)}{"".join(each.html for each in sections)}
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
{_json("curves", {curve.label: facts_of(curve) for curve in curves})}
{_json("dark", style.DARK)}
{_json("most-errors", MOST_ERRORS)}
<script>
{bundle}
</script>
<script>
{_beside("page.js")}</script>
</body>
</html>
"""


@dataclass(frozen=True)
class Section:
    """A part of the page that its first lines link to."""

    name: str
    title: str
    html: str


AT_THE_END = (("numbers", "All numbers"), ("making", "How it was made"))
"""Names and titles of the sections that every page has."""


def _sections(
    pictures: Sequence[Picture],
    healed: TextTable | None,
    sped: TextTable | None,
    critical: TextTable | None,
    fitted: Sequence[TextTable],
) -> Iterator[Section]:
    """What was chosen, the figures with the tables that belong under them, tables without one."""
    for at, table in enumerate(fitted):
        yield _section(f"fit-{at}", table.title, _texts(table, table.title))
    under = {}
    if healed is not None:
        under[HEALING] = _texts(healed, GIVEN, under=True)
    if sped is not None:
        under[SPEED] = _texts(sped, FASTER, under=True)
    for each in pictures:
        name = each.figure.name
        yield _section(name, each.figure.title, _figure(each, under.pop(name, "")))
    # Healed without training: there is no figure to stand under.
    if healed is not None and HEALING in under:
        yield _section(HEALING, healed.title, under[HEALING])
    if critical is not None:
        yield _section("critical", critical.title, _texts(critical, FALLEN))


def _section(name: str, title: str, body: str) -> Section:
    html = f'<section id="{escape(name)}">\n<h2>{escape(title)}</h2>\n{body}</section>\n'
    return Section(name, title, html)


def embedded_json(content: Any) -> str:
    """`content` as JSON that can stand inside a script element, whatever texts it holds."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _json(name: str, content: Any) -> str:
    return f'<script type="application/json" id="{name}">{embedded_json(content)}</script>'


def _figure(picture: Picture, under: str) -> str:
    figure = picture.figure
    name = escape(figure.name)
    spec = {key: value for key, value in figure.spec.items() if key != "data"}
    facts = escape(json.dumps(figure.facts))
    files = f"figures/{name}.csv, .svg and .png"
    return f"""<figure>
<div class="card" data-spec="spec-{name}" data-panel="{figure.panel}" data-facts="{facts}">
<img src="{picture.still}" alt="{escape(figure.alt)}">
<div class="chart"></div>
<p class="nothing" hidden>All of it is switched off.</p>
</div>
<figcaption>{escape(figure.caption)} <span class="files">Its numbers and pictures: \
<code>{files}</code>.</span></figcaption>
</figure>
{_json(f"spec-{name}", spec)}
{_json(f"spec-{name}-data", packed(figure.data))}
{under}"""


def _glance(found: Sequence[Finding]) -> str:
    """How far each curve holds, one line each."""
    rows = [finding.cells for finding in found]
    return _plain(HELD, "held", "glance", map(escape, GLANCE), rows)


def _texts(table: TextTable, caption: str, under: bool = False) -> str:
    """A table with its caption and note; `under` a figure it stands closer."""
    columns = (_broken(escape(name)) for name in table.columns)
    kind = f"texts names-{table.num_names}"
    return f"""{_plain(caption, "under" if under else "", kind, columns, table.rows)}
<p class="note">{escape(table.note)}</p>
"""


def _plain(
    caption: str, place: str, kind: str, columns: Iterable[str], rows: Iterable[Sequence[str]]
) -> str:
    """A table of texts, whose column names are HTML."""
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>\n" for row in rows
    )
    return f"""{_scroll(caption, place)}
<table class="{kind}">
<caption>{caption}</caption>
<thead>
<tr>{head}</tr>
</thead>
<tbody>
{body}</tbody>
</table>
</div>"""


def _scroll(name: str, more: str = "") -> str:
    """The start of what a wide table scrolls in, by keys too."""
    style = f"scroll {more}".strip()
    return f'<div class="{style}" tabindex="0" role="region" aria-label="{escape(name)}">'


def _broken(text: str) -> str:
    """`text` with its lines as lines."""
    return text.replace("\n", "<br>")


def _unbroken(text: str) -> str:
    """`text` with numbers and their errors kept in one line."""
    return text.replace(" ± ", "&#160;±&#160;")


def _table(grid: Grid, note: str) -> str:
    # With one curve, the title names it.
    head = "".join(
        f'<th class="block" scope="colgroup" colspan="{len(grid.columns)}">{escape(block)}</th>'
        for block in grid.blocks
        if len(grid.blocks) > 1
    )
    head = f"<tr><td></td><td></td>{head}</tr>\n" if head else ""
    names = '<th scope="col">fraction</th><th scope="col">n</th>' + "".join(
        _cell("th", column, column) for _ in grid.blocks for column in grid.columns
    )
    columns = ("", "", *grid.columns * len(grid.blocks))
    rows = "".join(
        "<tr>" + "".join(map(_cell, ["td"] * len(row), columns, row)) + "</tr>\n"
        for row in grid.rows
    )
    return f"""{_scroll(grid.title)}
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
    scope = ' scope="col"' if tag == "th" else ""
    return f"<{tag}{scope}{style}>{escape(text)}</{tag}>"


def _made(name: str, values: Sequence[str]) -> str:
    said = "<br>".join(escape(value) for value in values)
    return f"<dt>{escape(name)}</dt><dd>{said}</dd>\n"


def _beside(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
