"""Nothing half-written, ever: write beside, then rename."""

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
"""In the name of a folder that is being filled, or whose process was killed while it was."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file to; it takes the place of `path` when all went well.

    A reader sees the old file or the whole new one. On an exception the old file stays. What
    processes that were killed have left of the same name is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.stem}-{UNFINISHED}-"
    for remains in path.parent.glob(f"{glob.escape(prefix)}*{glob.escape(path.suffix)}"):
        _remove_unless_held(remains)
    with _named(path):
        beside, lock = _held_file(path.parent, prefix, path.suffix)
    try:
        with _named(path):
            yield beside
            with beside.open("rb") as written:
                os.fsync(written.fileno())
            beside.chmod(0o666 & ~_umask())
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
        os.close(lock)


@contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to fill; it becomes `path` when all went well.

    If another process was faster, its folder stays and this one is dropped. What processes that
    were killed have left beside `path` is removed first.
    """
    with _named(path), scratch(path) as beside:
        yield beside
        _settle(beside)
        try:
            beside.rename(path)
        except OSError:
            if not path.is_dir():
                raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """As `creating_folder`, in the place of a folder that may be there, which stays until then."""
    with _named(path), scratch(path) as beside:
        yield beside
        _settle(beside)
        if not path.exists():
            beside.rename(path)
            return
        with scratch(path) as old:
            path.rename(old)
            try:
                beside.rename(path)
            except OSError:
                old.rename(path)
                raise


def _settle(folder: Path) -> None:
    """Bring a folder's files to the disk, for all to read."""
    for file in filter(Path.is_file, folder.rglob("*")):
        with file.open("rb") as written:
            os.fsync(written.fileno())
        file.chmod(0o666 & ~_umask())  # safetensors lets nobody but the owner read
    folder.chmod(0o777 & ~_umask())


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What the system refuses about a file beside `path`, whose name says nothing, as of `path`.

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


def _held_file(parent: Path, prefix: str, suffix: str) -> tuple[Path, int]:
    """The same of a new file."""
    while True:
        lock, name = tempfile.mkstemp(dir=parent, prefix=prefix, suffix=suffix)
        if _held(lock) is not False and os.path.exists(name):
            return Path(name), lock
        os.close(lock)


def _remove_unless_held(remains: Path) -> None:
    """Remove a folder or a file that no process fills any more."""
    with suppress(FileNotFoundError):
        lock = os.open(remains, os.O_RDONLY)
        if _held(lock):
            if remains.is_dir():
                shutil.rmtree(remains, ignore_errors=True)
            else:
                remains.unlink(missing_ok=True)
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


class Damaged(ValueError):  # noqa: N818 - it says what happened
    """Raised for a file whose content is not what was written."""


_SEAL = re.compile(r',\n "sha256": "([0-9a-f]{64})"\n}\n\Z')


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """`write_json`, with a last key `sha256` of all before it, so that damage is seen.

    What is empty has none.
    """
    text = _json(content)
    if not content:
        write_text(path, text)
        return
    seal = hashlib.sha256(text.encode()).hexdigest()
    write_text(path, f'{text[:-3]},\n "sha256": "{seal}"\n}}\n')


def read_sealed(path: Path, must: bool = True) -> dict[str, Any]:
    """What `write_sealed` wrote. With `must` false, a file without a seal will do.

    Raises `Damaged`, or `OSError` if there is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
        seal = _SEAL.search(text)
        if seal is not None:
            text = f"{text[: seal.start()]}\n}}\n"
        content = json.loads(text)
    except ValueError as error:
        raise Damaged(f"it cannot be read ({error})") from error
    if seal is None and must:
        raise Damaged("it has no seal")
    if seal is not None and hashlib.sha256(text.encode()).hexdigest() != seal[1]:
        raise Damaged("it was changed after it was written")
    if not isinstance(content, dict):
        raise Damaged("it is of another kind")
    return content


SUMS = "sums.json"
"""In a folder: the SHA-256 of its other files."""


def write_sums(folder: Path, names: Sequence[str]) -> None:
    """Keep what these files of a folder hash to, so that damage is seen."""
    write_sealed(folder / SUMS, {name: sha256(folder / name) for name in names})


def check_sums(folder: Path) -> None:
    """Raise `Damaged` unless the files of a folder are what they were at `write_sums`."""
    try:
        for name, content in read_sealed(folder / SUMS).items():
            if sha256(folder / name) != content:
                raise Damaged(f"{folder / name} was changed after it was written")
    except OSError as error:
        raise Damaged(f"{error.filename}: {error.strerror}") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON to `path`, whole or not at all. Keys are sorted, NaN is an error."""
    write_text(path, _json(content))


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
