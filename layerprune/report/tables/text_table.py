"""A table of texts, and its forms in Markdown and LaTeX."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 100
"""Characters of a line where the output is not a terminal; tables of points are that wide."""

LAYERS = "layers"
"""The name of a column of layer lists, which start a curve's block of columns."""

LAYERS_WIDTH = 30
"""Characters of a layer list on a terminal; longer lists continue on the next line."""

ARROW = " → "
"""In a column whose cells have two halves; a terminal may break its name there."""

GAP = 3
"""Characters between two columns on a terminal."""

LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip
"""Escapes of the characters with a meaning in LaTeX."""


@dataclass(frozen=True)
class TextTable:
    """Rows of texts, for the page, a terminal, Markdown or LaTeX."""

    title: str
    num_names: int
    """Number of columns aligned left, from the first; so are layer lists. The rest are numbers."""
    columns: tuple[str, ...]
    """Names of one or two lines."""
    rows: tuple[tuple[str, ...], ...]
    note: str
    blocks: tuple[str, ...] = ()
    """Names of curves side by side, each above the columns from one `LAYERS` to the next."""

    def is_left(self, index: int) -> bool:
        """Return whether the column at `index` is aligned left."""
        return index < self.num_names or self.columns[index] == LAYERS

    @property
    def headings(self) -> tuple[str, ...]:
        """The column names with the names of the blocks above them, where there are several."""
        if len(self.blocks) < 2:
            return self.columns
        blocks = iter(self.blocks)
        return tuple(f"{next(blocks) if name == LAYERS else ''}\n{name}" for name in self.columns)

    @property
    def width(self) -> int:
        """The characters of a line on a terminal."""
        return sum(
            min(
                max(len(line) for text in (heading, *cells) for line in text.split("\n")),
                LAYERS_WIDTH if name == LAYERS else 10**6,
            )
            + GAP
            for name, heading, *cells in zip(self.columns, self.headings, *self.rows, strict=True)
        )


def table_of(
    title: str, num_names: int, rows: Iterable[Iterable[tuple[str, str]]], note: str = ""
) -> TextTable:
    """Return the table of rows, at least one, whose cells each have the name of their column."""
    cells = [list(zip(*row, strict=True)) for row in rows]
    return TextTable(title, num_names, cells[0][0], tuple(texts for _, texts in cells), note)


def fitting(make: Callable[[bool], TextTable | None], width: int | None) -> TextTable | None:
    """Return the table `make(True)`, or `make(False)`, its short form, if it exceeds `width`."""
    table = make(True)
    if table is None or width is None or table.width <= width:
        return table
    return make(False)


def to_csv(rows: Iterable[Any], columns: Sequence[str] | None = None) -> str:
    """Return rows as CSV with a header, each number as Python writes it; None is an empty cell."""
    import pandas as pd  # slow to import

    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    return frame.to_csv(index=False, lineterminator="\n")


def to_markdown(columns: Sequence[str], num_names: int, rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, its first `num_names` columns aligned left.

    pandas would pad the cells of each column to one width, and needs tabulate for it.
    """
    rule = [":--" if index < num_names else "--:" for index in range(len(columns))]
    cells = [[re.sub(r"([\\|*_`<\[])", r"\\\1", text) for text in row] for row in rows]
    return "\n".join(f"| {' | '.join(texts)} |" for texts in (columns, rule, *cells))


def to_latex(columns: Sequence[str], num_names: int, rows: Iterable[Sequence[str]]) -> str:
    """Return a table in LaTeX, for a document that uses the package booktabs."""
    import pandas as pd

    texts = [["".join(LATEX.get(sign, sign) for sign in text) for text in row]
             for row in (columns, *rows)]  # fmt: skip
    frame = pd.DataFrame(texts[1:], columns=texts[0])
    alignment = "l" * num_names + "r" * (len(columns) - num_names)
    return frame.to_latex(index=False, escape=False, column_format=alignment)
