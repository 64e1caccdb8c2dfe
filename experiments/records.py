"""Writes docs/records.md: what stands in a study's files, from the classes that write them.

    python experiments/records.py

`make tables` does it, and a test holds the page true.
"""

import dataclasses
from pathlib import Path

from configuration import said

from layerprune.record.point import SCHEMA, Point
from layerprune.report.rows import HEADER, Row

PAGE = Path(__file__).resolve().parent.parent / "docs" / "records.md"

HEAD = f"""# What stands in the files of a study

Written by `make tables` from [record/point.py](../layerprune/record/point.py) and
[report/rows.py](../layerprune/report/rows.py); a test keeps it true. Layers count from 0, shares
are of 1, and what could not be told is empty in CSV and `null` in JSON.

## points/KEY/record.json

One point: schema {SCHEMA}, status `ok`, and a seal, the hash of all the rest, by which damage is
found. A version of layerprune that writes another schema names the file and leaves it alone.

| field | is |
|:--|:--|
"""

CSV = """
## curves.csv and curves.parquet

One number of one point a line. All points of a curve have the same model, metric, strategy, recipe
and seed. Where curves differ in something else, as in the number of solved examples, these columns
do not tell it: `figures/NAME.csv` has the curve's name in each line, as the legend has it.

| column | is |
|:--|:--|
"""

REST = """
## critical.csv

A line for each curve on each task. `critical` is the fraction of layers at which half of the margin
over guessing is gone, `sharpness` the fraction over which it falls from three quarters to a
quarter, `left_10` to `left_50` the share of it that is left where so many percent are dropped,
`_low` and `_high` the ends of 95 % intervals over questions. `farthest` is the greatest fraction
measured: what lies beyond is `inf`. `why` says what cannot be told. `critical.md` and
`critical.tex` have the same in percent. [statistics.md](statistics.md) has the method.

## figures/NAME.csv

The numbers of one figure, a mark a line.
"""


def page() -> str:
    """The whole page."""
    point = said(Point)
    fields = [(field.name, point[field.name]) for field in dataclasses.fields(Point)]
    row = said(Row)
    columns = [(name, row[name]) for name in HEADER]
    return f"{HEAD}{_lines(fields)}{CSV}{_lines(columns)}{REST}"


def _lines(pairs: list[tuple[str, str]]) -> str:
    return "".join(f"| `{name}` | {meaning} |\n" for name, meaning in pairs)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
