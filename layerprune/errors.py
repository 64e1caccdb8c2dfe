"""Exceptions for users, and the one way to print them: a line, without secrets."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten

from layerprune.runtime.redact import redacted

log = logging.getLogger(__name__)


class UserError(Exception):
    """An error that the user can fix; its message is one line that names the key and the fix.

    The command line prints it without a traceback and ends with exit status 2.
    """


class PointFailed(UserError):  # noqa: N818
    """The failure of one point; the others of the run continue.

    Its message is kept in the point's folder, and the run ends with exit status 1.
    """


@dataclass
class RunErrors:
    """Reasons why requested points or checkpoints are missing, as lines for the user.

    Lines only: an exception would keep a model in memory.
    """

    failed: dict[Path, str] = field(default_factory=dict)
    """Points that failed, by folder."""
    refused: dict[str, list[Path]] = field(default_factory=dict)
    """By reason, the folders of points that were not attempted, or not exported: the user can
    fix these."""

    def merge(self, other: "RunErrors") -> None:
        """Add the errors of another process or job."""
        self.failed |= other.failed
        for reason, folders in other.refused.items():
            self.refused.setdefault(reason, []).extend(folders)

    def gave_up(self, folder: Path) -> bool:
        """Return True if the point in `folder` is not attempted again."""
        return folder in self.failed or any(folder in given for given in self.refused.values())


@contextmanager
def explained(title: str, unchanged: tuple[type[Exception], ...] = (UserError,)) -> Iterator[None]:
    """Raise `UserError` for whatever a library raises inside the block: `title: reason`."""
    try:
        yield
    except unchanged:
        raise
    except Exception as error:  # damaged files, templates and foreign code raise anything
        log.debug("Reading failed.", exc_info=True)
        reason = shorten(str(error), 300, placeholder=" ...") or type(error).__name__
        reason = re.sub(r"[:;,(]+ \.\.\.$", " ...", reason)
        if isinstance(error, UnpicklingError):  # PyTorch's own message advises to run the code
            reason = "it holds code beside weights, and that code is not run"
        raise UserError(f"{title}: {reason}") from error


def refusal(error: OSError) -> str:
    """Describe an error of the operating system in one line: the file, if known, and the reason."""
    prefix = "" if error.filename is None else f"{error.filename}: "
    return f"{prefix}{error.strerror}."


def print_anything() -> None:
    """Escape characters that the console's encoding lacks, instead of ending with an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_error(message: str) -> None:
    """Print an error message to standard error, without secrets."""
    print(redacted(f"layerprune: {message}"), file=sys.stderr)


class ExitStatus:
    """The exit status of a command that continues after an error."""

    def __init__(self) -> None:
        self.value = 0

    def fail(self, message: str, status: int = 2) -> None:
        """Print an error; the highest status counts."""
        print_error(message)
        self.value = max(self.value, status)

    @contextmanager
    def catch(self) -> Iterator[None]:
        """Print errors of the block that the user can fix, and continue after it."""
        try:
            yield
        except UserError as error:
            self.fail(str(error))
        except OSError as error:
            if error.filename is None:
                raise
            self.fail(refusal(error))
