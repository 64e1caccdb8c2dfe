"""Locks between processes, on this machine or on a shared disk.

The system releases a lock when its process ends, however it ends.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

WAIT_S = 3600.0
"""Seconds to wait for another process before doing its work again."""

WITHOUT_LIMIT = -1.0
"""Seconds to wait for another process as long as it takes."""


@contextmanager
def exclusive_lock(path: Path, wait_s: float = WAIT_S) -> Iterator[bool]:
    """Hold an exclusive lock on `path`; yield False if it times out after `wait_s`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_beside(path))
    with suppress(Timeout):
        lock.acquire(timeout=wait_s)
    try:
        yield lock.is_locked
    finally:
        lock.release()


class Claim:
    """An exclusive right to create the contents of a folder."""

    def __init__(self, folder: Path) -> None:
        self._path = _beside(folder / "claim")
        self._lock = FileLock(self._path)

    def acquire(self, wait_s: float = 0.0) -> bool:
        """Try for `wait_s` seconds to take the claim; return True if this process has it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=wait_s)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Let others have it; whoever acquires a claim first checks what work is left."""
        self._path.unlink(missing_ok=True)
        self._lock.release()
        with suppress(OSError):  # not empty
            for folder in (self._path.parent, self._path.parent.parent):
                folder.rmdir()


def is_claimed(folder: Path) -> bool:
    """Return True if a process claims the folder, or did when it was killed."""
    return _beside(folder / "claim").exists()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")
