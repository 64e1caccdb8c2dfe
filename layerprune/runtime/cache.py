"""Files that cache a result: read if they are intact, otherwise made once by one process."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from layerprune.runtime.atomic_files import write_checksummed
from layerprune.runtime.locks import exclusive_lock

T = TypeVar("T")


def write_dataclass(path: Path, value: Any) -> None:
    """Write a dataclass as JSON with a checksum."""
    write_checksummed(path, asdict(value))


def cached(
    path: Path,
    read: Callable[[Path], T | None],
    make: Callable[[], T],
    write: Callable[[Path, T], None] = write_dataclass,
) -> T:
    """Return the value that `path` holds; if it holds none, make it and write it.

    `read` returns None or raises for a file that is missing, damaged or does not fit. Other
    processes wait for the one that makes the value.
    """
    value = read_intact(path, read)
    if value is None:
        with exclusive_lock(path):
            value = read_intact(path, read)  # another process may have made it meanwhile
            if value is None:
                value = make()
                write(path, value)
    return value


def read_intact(path: Path, read: Callable[[Path], T | None]) -> T | None:
    """Return the value that `read` finds in `path`, or None if it is missing or damaged."""
    try:
        return read(path)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, EOFError):
        return None
