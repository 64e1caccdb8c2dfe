"""What a model's files contain, in sixteen hex digits."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from layerprune.files import read_sealed, sha256, write_sealed

KINDS = {".json", ".safetensors", ".jinja", ".txt", ".model"}


def fingerprint(folder: Path, memory: Path, also: Sequence[str] = ()) -> str:
    """Hash of a model's weights, configuration and tokenizer: sixteen hex digits.

    Files whose names are like one of `also` count, too.

    Every byte counts; `memory` is that of `contents`.
    """
    files = [
        file
        for file in sorted(folder.iterdir())
        if (file.suffix in KINDS or any(map(file.match, also))) and file.is_file()
    ]
    digest = hashlib.sha256()
    for file, content in zip(files, contents(files, memory), strict=True):
        digest.update(f"{file.name}\0{content}\0".encode())
    return digest.hexdigest()[:16]


def contents(files: Sequence[Path], memory: Path) -> list[str]:
    """SHA-256 of each file, in hex digits.

    What a file hashed to is remembered in the JSON file `memory`, by its path, size and time of
    change, so that only the first run reads it.
    """
    known = _remembered(memory)
    found, learned = [], {}
    for file in files:
        real = file.resolve()
        state = real.stat()
        key = f"{real}:{state.st_size}:{state.st_mtime_ns}"
        learned[key] = known.get(key) or _hash(real)
        found.append(learned[key])
    if not learned.keys() <= known.keys():
        write_sealed(memory, {**known, **learned})
    return found


def _hash(file: Path) -> str:
    # In the hub's cache a large file is a link to one that is named by its SHA-256.
    if len(file.name) == 64 and set(file.name) <= set("0123456789abcdef"):
        return file.name
    return sha256(file)


def _remembered(memory: Path) -> dict[str, str]:
    try:
        return read_sealed(memory)
    except (OSError, ValueError):
        return {}
