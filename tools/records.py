"""Write docs/records.md, the fields of a study's files, from the classes that write them.

    python tools/records.py

`make tables` runs this, and a test compares the page with its output.
"""

import dataclasses
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path

from layerprune.config.help import descriptions
from layerprune.record.point import SCHEMA, Point
from layerprune.report.tables.curve_rows import HEADER, Row

PAGE = Path(__file__).resolve().parent.parent / "docs" / "records.md"

HEAD = f"""# Read the files of a study

After this page you can read every number of a study without layerprune. This prints the held-out
loss of one point:

    python -c 'import json; print(json.load(open("outputs/STUDY/points/KEY/record.json"))["loss"])'

Layers count from 0, and fractions and accuracies are between 0 and 1. A missing value is empty in
CSV and `null` in JSON. `make tables` writes this page from
[record/point.py](../layerprune/record/point.py) and
[report/tables/curve_rows.py](../layerprune/report/tables/curve_rows.py), and a test keeps it
current.

## points/KEY/record.json

One point. Besides the fields below, it has `schema` ({SCHEMA}), `status` (`ok`) and `sha256`, a
hash of everything before it that detects damage. A version of layerprune with another schema names
the file and does not change it.

| field | meaning |
|:--|:--|
"""

CURVES = """
## curves.csv and curves.parquet

One row per number of a point. All points of a curve have the same model, metric, strategy, recipe
and seed. Curves that differ in something else, such as the number of few-shot examples, look alike
in these columns. `figures/NAME.csv` has the curve's name in each row, as in the legend.

| column | meaning |
|:--|:--|
"""

CRITICAL = """
## critical.csv

One row per curve and task. `critical.md` and `critical.tex` have its main columns in percent, and
[statistics.md](statistics.md) has the method.

| column | meaning |
|:--|:--|
"""

CRITICAL_COLUMNS = {
    "critical": "The critical fraction, at which half of the margin over chance is lost; `inf` "
    "beyond the last point.",
    "sharpness": "The fraction over which the margin falls from three quarters to one quarter. "
    "Empty if the points do not resolve it: `sharpness_high` is then an upper bound.",
    "left_10` to `left_50": "The share of the margin that is left with 10 to 50 % of the layers "
    "removed.",
    "..._low`, `..._high": "Ends of 95 % intervals over questions, widened where points are far "
    "apart.",
    "farthest": "The largest measured fraction.",
    "dips": "Numbers of removed layers with fewer correct answers than some larger number, beyond "
    "noise.",
    "why": "Why there is no critical fraction.",
}

FIGURES = """
## figures/NAME.csv

The numbers of one figure, one row per mark.
"""


def page() -> str:
    """Return the page."""
    row = descriptions(Row)
    columns = [(name, row[name]) for name in HEADER]
    record, critical = _lines(_fields(Point, "", {})), _lines(CRITICAL_COLUMNS.items())
    return f"{HEAD}{record}{CURVES}{_lines(columns)}{CRITICAL}{critical}{FIGURES}"


def _fields(kind: type, prefix: str, listed: dict[type, str]) -> Iterator[tuple[str, str]]:
    """Yield the path and description of each field, nested dataclasses included."""
    texts = descriptions(kind)
    for name, hint in typing.get_type_hints(kind).items():
        path = f"{prefix}{name}"
        parts = (hint, *typing.get_args(hint), *map(typing.get_origin, typing.get_args(hint)))
        inner = next((part for part in parts if dataclasses.is_dataclass(part)), None)
        if not isinstance(inner, type):
            yield path, texts.get(name, "")
        elif inner in listed:
            yield path, f"{texts.get(name, '')} Fields as in `{listed[inner]}`.".strip()
        else:
            origin = typing.get_origin(hint)
            more = ".NAME" if origin is dict else "[]" if origin is tuple else ""
            listed[inner] = path + more
            yield path, texts.get(name, "")
            yield from _fields(inner, f"{path}{more}.", listed)


def _lines(pairs: Iterable[tuple[str, str]]) -> str:
    rows = [(name, meaning.replace("|", "\\|")) for name, meaning in pairs]
    return "".join(f"| `{name}` | {meaning} |\n" for name, meaning in rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
