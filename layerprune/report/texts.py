"""A table of texts, and that on a terminal."""

from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

ARROW = " → "
"""In the name of a column whose cells have two halves, which may stand in two lines."""


@dataclass(frozen=True)
class TextTable:
    """Rows of texts, for a terminal or a page."""

    title: str
    num_names: int
    """So many columns from the first one read from the left; all others are numbers."""
    columns: tuple[str, ...]
    """Some have two lines."""
    rows: tuple[tuple[str, ...], ...]
    note: str

    @property
    def width(self) -> int:
        """Characters that a line takes on a terminal."""
        gap = 3  # as rich sets the columns
        return sum(
            max(len(line) for text in column for line in text.split("\n")) + gap
            for column in zip(self.columns, *self.rows, strict=True)
        )


def show_table(console: Console, texts: TextTable) -> None:
    """Print the table and its note."""
    table = Table(
        title=Text(texts.title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for at, name in enumerate(texts.columns):
        table.add_column(
            Text(name if "\n" in name else f"\n{name}"),
            justify="right" if at >= texts.num_names else "left",
            no_wrap=at > 0 and ARROW not in name,
            overflow="fold",
        )
    for row in texts.rows:
        table.add_row(*map(Text, row))
    console.print(table)
    console.print(Text(f"{texts.note}\n", style="dim"))
