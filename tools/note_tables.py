"""Write each table of the lab notes as CSV, in the folder of the note's figures.

    python tools/note_tables.py

`make notes` does it last. A table of `experiments/NAME.md` becomes `experiments/NAME/TABLE.csv`,
named after its section, or after its first column where the note has no sections.
"""

import csv
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from layerprune.runtime.atomic_files import write_text

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"


def main() -> None:
    """Write all tables, and remove CSV files of tables that are gone."""
    for note in sorted(set(EXPERIMENTS.glob("*.md")) - {EXPERIMENTS / "README.md"}):
        tables = dict(note_tables(note.read_text(encoding="utf-8")))
        folder = note.with_suffix("")
        for old in folder.glob("*.csv"):
            if old.name not in tables:
                old.unlink()
        for name, content in tables.items():
            folder.mkdir(exist_ok=True)
            write_text(folder / name, content)


def note_tables(text: str) -> Iterator[tuple[str, str]]:
    """Yield the file name and the CSV of each Markdown table with numbers."""
    section, names, rows = "", dict[str, int](), list[list[str]]()
    for line in (*text.splitlines(), ""):
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            rows.append([re.sub(r"\\(?=[\W_])|\*\*", "", cell).strip() for cell in cells])
            continue
        if len(rows) > 2:
            slug = re.sub(r"[^a-z0-9]+", "_", (section or rows[0][0]).lower()).strip("_")
            slug = slug if len(slug) > 2 else "table"
            names[slug] = names.get(slug, 0) + 1
            number = f"_{names[slug]}" if names[slug] > 1 else ""
            table = io.StringIO()
            csv.writer(table, lineterminator="\n").writerows([rows[0], *rows[2:]])
            yield f"{slug}{number}.csv", table.getvalue()
        rows = []
        if line.startswith("## "):
            section = line.removeprefix("## ")


if __name__ == "__main__":
    main()
