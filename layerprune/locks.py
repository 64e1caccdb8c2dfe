"""Work that is done by one process at a time, on this machine or on a shared disk.

The system lets go of a lock when the process that holds it ends, however it ends.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

WAIT_S = 3600.0
"""For another process; after that its work is done again."""


@contextmanager
def alone(path: Path, wait_s: float = WAIT_S) -> Iterator[bool]:
    """Whether no other process works on `path` inside the block; others are waited for so long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_beside(path))
    with suppress(Timeout):
        lock.acquire(timeout=wait_s)
    try:
        yield lock.is_locked
    finally:
        lock.release()


class Claim:
    """The right to make what will lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self._path = _beside(folder / "claim")
        self._lock = FileLock(self._path)

    def taken(self, wait_s: float = 0.0) -> bool:
        """Whether it is this process's now, after waiting so long for others."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=wait_s)
        except Timeout:
            return False
        return True

    def give_back(self) -> None:
        """Let others have it. Whoever takes a claim looks first whether there is work left."""
        self._path.unlink(missing_ok=True)
        self._lock.release()
        with suppress(OSError):  # something came of it, or of others
            for folder in (self._path.parent, self._path.parent.parent):
                folder.rmdir()


def is_claimed(folder: Path) -> bool:
    """Whether some process claims the folder, or did when it was killed."""
    return _beside(folder / "claim").exists()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")
