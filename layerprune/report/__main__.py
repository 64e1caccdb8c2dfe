"""`python -m layerprune.report outputs/STUDY ...`: reports from records, without any model."""

import argparse
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from layerprune.errors import UserError
from layerprune.report import draw, read, read_entries, show


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; 2 if that could not be done for one of the studies, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m layerprune.report",
        description="Write report.html, tables and figures/ of each study from its records, and "
        "print its tables. Needs no model; a repeat gives the same files.",
    )
    parser.add_argument(
        "study", nargs="+", type=Path, metavar="outputs/STUDY", help="folder of a study"
    )
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--text", action="store_true", help="print tables and curves, and write nothing"
    )
    ways.add_argument(
        "--to", type=Path, metavar="FOLDER", help="one report of all the studies, in this folder"
    )
    ways.add_argument(
        "--compare",
        action="store_true",
        help="print what differs beyond noise between the points that two studies both have",
    )
    asked = parser.parse_intermixed_args(arguments)
    trouble: list[str] = []
    if asked.compare:
        if len(asked.study) != 2:
            parser.error("--compare takes two studies")
        with _told(trouble):
            _compare(asked.study)
    elif asked.to is not None:
        with _told(trouble):
            _draw_together(asked.study, asked.to)
    else:
        for study in asked.study:
            with _told(trouble):
                if asked.text:
                    show(read([study]), text_curves=True)
                else:
                    show(draw(study))
    return 2 if trouble else 0


def _draw_together(studies: Sequence[Path], to: Path) -> None:
    if (to / "points").exists():
        raise UserError(f"--to {to} is a study and has a report of its own: name another folder.")
    show(draw(*studies, to=to))


def _compare(studies: Sequence[Path]) -> None:
    from rich.console import Console

    from layerprune.record.store import Store
    from layerprune.report.compare import compare_studies, show_compared, study_names
    from layerprune.report.table import WIDTH

    names = study_names(studies)
    found, skipped = [], []
    for name, study in zip(names, studies, strict=True):
        if not study.is_dir():
            raise UserError(f"{study} is not a folder: name the folder of a study, outputs/STUDY.")
        entries, bad = read_entries(Store(study))
        found.append(entries)
        skipped += [f"{name}: {line}" for line in bad]
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    show_compared(console, compare_studies(names, *found), skipped)


@contextmanager
def _told(trouble: list[str]) -> Iterator[None]:
    """Say what a user can mend in one line, and go on."""
    try:
        yield
    except UserError as error:
        trouble.append(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        trouble.append(f"{error.filename}: {error.strerror}.")
    else:
        return
    print(f"layerprune: {trouble[-1]}", file=sys.stderr)


if __name__ == "__main__":
    # Thousands of records are millions of objects, which all stay: to look through them for what
    # could go, again and again, takes as long as to read them.
    gc.disable()
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Nor are they freed one by one at the end.
    os._exit(status)
