"""`python -m layerprune.report outputs/STUDY ...`: reports from records, without any model."""

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from layerprune.analysis.comparison import SIDES, compare_by, compare_points
from layerprune.config.schema import FigureWidth
from layerprune.errors import ExitStatus, UserError, print_anything
from layerprune.report import draw, read


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 2 if that failed for one of the studies, else 0."""
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
        help="print what differs beyond noise between two studies, at points with equal settings, "
        "or else at points of one model with as many layers removed",
    )
    ways.add_argument(
        "--by", choices=SIDES, help="print the same within each study, for each value of this"
    )
    parser.add_argument(
        "--width",
        type=FigureWidth,
        choices=FigureWidth,
        default=FigureWidth.page,
        metavar="{page,column}",
        help="size of the files in figures/: a column of a paper is 3.3 inches wide",
    )
    options = parser.parse_intermixed_args(arguments)
    from layerprune.report.terminal import show

    status = ExitStatus()
    if options.compare:
        if len(options.study) != 2:
            parser.error("--compare takes two studies")
        with status.catch():
            _compare(options.study)
    elif options.to is not None:
        with status.catch():
            if (options.to / "points").exists():
                raise UserError(f"--to={options.to} is a study itself: name another folder.")
            show(draw(*options.study, to=options.to, width=options.width))
    else:
        for study in options.study:
            with status.catch():
                if options.by:
                    _compare_by(options.by, study)
                elif options.text:
                    show(read([study]), text_curves=True)
                else:
                    show(draw(study, width=options.width))
    return status.value


def _compare(studies: Sequence[Path]) -> None:
    from layerprune.report.tables.comparison import show_comparison, study_names
    from layerprune.report.terminal import make_console

    names = study_names(studies)
    reports = [read([study]) for study in studies]
    comparison = compare_points(names, *(report.points for report in reports))
    skipped = (f"{name}: {line}" for name, report in zip(names, reports, strict=True)
               for line in report.skipped)  # fmt: skip
    show_comparison(make_console(), comparison, list(skipped))


def _compare_by(setting: str, study: Path) -> None:
    from layerprune.report.tables.comparison import show_comparison
    from layerprune.report.terminal import make_console

    report = read([study])
    comparisons = compare_by(setting, report.points)
    if not comparisons:
        (value,) = {str(SIDES[setting](point)) for point in report.points}
        raise UserError(f"{study} has nothing to compare by {setting}: all of it is {value}.")
    for comparison in comparisons:
        skipped = report.skipped if comparison is comparisons[-1] else []
        show_comparison(make_console(), comparison, skipped)


if __name__ == "__main__":
    # Thousands of records are millions of objects, which are all kept: garbage collection among
    # them takes as long as reading them, and freeing them at the end takes long too.
    gc.disable()
    print_anything()
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
