"""Nothing half-written, ever: write beside, then rename."""

import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

UNFINISHED = "unfinished"
"""In the name of a folder that is being filled, or whose process was killed while it was."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file to; it takes the place of `path` when all went well.

    A reader sees the old file or the whole new one. On an exception the old file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.chmod(0o666 & ~_umask())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to fill; it becomes `path` when all went well.

    If another process was faster, its folder stays and this one is dropped. What processes that
    were killed have left beside `path` is removed first.
    """
    with scratch(path) as beside:
        yield beside
        for file in filter(Path.is_file, beside.rglob("*")):
            with file.open("rb") as written:
                os.fsync(written.fileno())
            file.chmod(0o666 & ~_umask())  # safetensors lets nobody but the owner read
        beside.chmod(0o777 & ~_umask())
        try:
            beside.rename(path)
        except OSError:
            if not path.is_dir():
                raise


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A folder beside `path`, gone after the block unless it was moved.

    What processes that were killed have left of the same name is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}-{UNFINISHED}-"
    for remains in path.parent.glob(f"{glob.escape(prefix)}*"):
        _remove_unless_held(remains)
    beside, lock = _held_folder(path.parent, prefix)
    try:
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        os.close(lock)


def _held_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new folder, and a lock on it that the system gives back when this process ends."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        # Until it is held, another process takes it for remains, and may hold or have removed it.
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            if _held(lock) is not False and folder.is_dir():
                return folder, lock
            os.close(lock)


def _remove_unless_held(folder: Path) -> None:
    """Remove a folder that no process fills any more."""
    with suppress(FileNotFoundError):
        lock = os.open(folder, os.O_RDONLY)
        if _held(lock):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _held(lock: int) -> bool | None:
    """Whether the lock is this process's now; None where the file system has no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON to `path`, whole or not at all. Keys are sorted, NaN is an error."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
