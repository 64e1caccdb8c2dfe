"""`python -m layerprune.report outputs/STUDY ...`: reports from records, without any model."""

import argparse
import gc
import sys
from collections.abc import Sequence
from pathlib import Path

from layerprune.errors import UserError
from layerprune.report import draw, show


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw and show every study named; 2 if one of them could not be, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m layerprune.report",
        description="Write curves.csv, report.html and figures/ of a study from its records, and "
        "print its tables. Needs no model; a repeat gives the same files.",
    )
    parser.add_argument(
        "study", nargs="+", type=Path, metavar="outputs/STUDY", help="folder of a study"
    )
    status = 0
    for study in parser.parse_args(arguments).study:
        try:
            show(draw(study))
        except UserError as error:
            status = _complain(str(error))
        except OSError as error:
            if error.filename is None:
                raise
            status = _complain(f"{error.filename}: {error.strerror}.")
    return status


def _complain(message: str) -> int:
    print(f"layerprune: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    # Thousands of records are millions of objects, which all stay: to look through them for what
    # could go, again and again, takes as long as to read them.
    gc.disable()
    sys.exit(main())
