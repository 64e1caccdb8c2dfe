"""Atomic writes (into a file beside the target, then a rename), and files with checksums."""

import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

UNFINISHED = "unfinished"
"""Part of the name of a scratch file or folder; a killed process leaves it behind."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file name beside `path`; after the block, move that file to `path`.

    A reader sees the old file or the complete new one. On an exception the old file stays.
    Leftovers of killed processes are removed first, in all functions of this module.
    """
    with _naming(path), _scratch(path, is_folder=False) as beside:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.chmod(0o666 & ~_umask())
        beside.replace(path)


@contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` to fill; after the block, rename it to `path`.

    If another process has created `path` meanwhile, that folder stays and this one is dropped.
    """
    with _naming(path), scratch_folder(path) as beside:
        yield beside
        _sync(beside)
        try:
            beside.rename(path)
        except OSError:
            if not path.is_dir():
                raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` to fill; after the block, it replaces `path` if that exists."""
    with _naming(path), scratch_folder(path) as beside:
        yield beside
        _sync(beside)
        if not path.exists():
            beside.rename(path)
            return
        with scratch_folder(path) as old:
            path.rename(old)
            try:
                beside.rename(path)
            except OSError:
                old.rename(path)
                raise


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, removed after the block unless it was moved."""
    with _scratch(path, is_folder=True) as beside:
        yield beside


@contextmanager
def _scratch(path: Path, is_folder: bool) -> Iterator[Path]:
    """Yield a new, locked file or folder beside `path`, removed after the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name, suffix = (path.name, "") if is_folder else (path.stem, path.suffix)
    prefix = f".{name}-{UNFINISHED}-"
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*{glob.escape(suffix)}"):
        _remove_unless_locked(leftover)
    beside, lock = _create_locked(path.parent, prefix, suffix, is_folder)
    try:
        yield beside
    finally:
        _remove(beside)
        os.close(lock)


def _sync(folder: Path) -> None:
    """Flush a folder's files to the disk and give all the permissions of the umask."""
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.chmod(0o666 & ~_umask())  # safetensors lets nobody but the owner read
    folder.chmod(0o777 & ~_umask())


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name `path` in errors about its scratch file, and in errors that name no file.

    Where a disk is full, Python names no file at all.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        if error.filename is None or f"-{UNFINISHED}-" in str(error.filename):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _create_locked(parent: Path, prefix: str, suffix: str, is_folder: bool) -> tuple[Path, int]:
    """Create a file or folder, and a lock on it that the system releases with this process."""
    while True:
        # Until it is locked, another process may take it for a leftover and remove it.
        with suppress(FileNotFoundError):
            if is_folder:
                name = tempfile.mkdtemp(dir=parent, prefix=prefix)
                lock = os.open(name, os.O_RDONLY)
            else:
                lock, name = tempfile.mkstemp(dir=parent, prefix=prefix, suffix=suffix)
            if _try_lock(lock) is not False and os.path.exists(name):
                return Path(name), lock
            os.close(lock)


def _remove_unless_locked(leftover: Path) -> None:
    """Remove a scratch file or folder whose process has ended."""
    with suppress(FileNotFoundError):
        lock = os.open(leftover, os.O_RDONLY)
        if _try_lock(lock):
            _remove(leftover)
        os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _try_lock(lock: int) -> bool | None:
    """Return True if this process locked the file, None if the file system has no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


class CorruptFile(ValueError):  # noqa: N818
    """A file whose content is not what was written."""


_CHECKSUM = re.compile(r',\n "sha256": "([0-9a-f]{64})"\n}\n\Z')


def write_checksummed(path: Path, content: dict[str, Any]) -> None:
    """Write JSON whose last key, `sha256`, is the hash of all before it; without it if empty."""
    text = _json(content)
    if not content:
        write_text(path, text)
        return
    checksum = hashlib.sha256(text.encode()).hexdigest()
    write_text(path, f'{text[:-3]},\n "sha256": "{checksum}"\n}}\n')


def read_checksummed(path: Path, required: bool = True) -> dict[str, Any]:
    """Read what `write_checksummed` wrote; unless `required`, a file may lack its checksum.

    Raises `CorruptFile` for a damaged file, `OSError` for a missing one.
    """
    try:
        text = path.read_text(encoding="utf-8")
        checksum = _CHECKSUM.search(text)
        if checksum is not None:
            text = f"{text[: checksum.start()]}\n}}\n"
        content = json.loads(text)
    except ValueError as error:
        raise CorruptFile(f"it cannot be read ({error})") from error
    if checksum is None and required:
        raise CorruptFile("it has no checksum")
    if checksum is not None and hashlib.sha256(text.encode()).hexdigest() != checksum[1]:
        raise CorruptFile("it was changed after it was written")
    if not isinstance(content, dict):
        raise CorruptFile("it is not a JSON object")
    return content


CHECKSUMS = "sums.json"
"""File of a folder with the SHA-256 of its other files."""


def write_checksums(folder: Path, names: Sequence[str]) -> None:
    """Write the checksums of these files of a folder."""
    write_checksummed(folder / CHECKSUMS, {name: sha256(folder / name) for name in names})


def verify_checksums(folder: Path) -> None:
    """Raise `CorruptFile` unless a folder's files are as they were at `write_checksums`."""
    try:
        for name, checksum in read_checksummed(folder / CHECKSUMS).items():
            if sha256(folder / name) != checksum:
                raise CorruptFile(f"{folder / name} was changed after it was written")
    except OSError as error:
        raise CorruptFile(f"{error.filename}: {error.strerror}") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex digits."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON to `path` atomically. Keys are sorted, NaN is an error."""
    write_text(path, _json(content))


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
