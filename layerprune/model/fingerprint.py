"""What a model's files contain, in sixteen hex digits."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from layerprune.files import read_sealed, sha256, write_sealed

KINDS = {".json", ".safetensors", ".jinja", ".txt", ".model"}


def fingerprint(folder: Path, memory: Path, also: Sequence[str] = ()) -> str:
    """Hash of a model's weights, configuration and tokenizer: sixteen hex digits.

    Files whose names are like one of `also` count, too.

    Every byte counts. What a large file hashed to is remembered in the JSON file `memory`, by its
    path, size and time of change, so that only the first run reads it.
    """
    known = _remembered(memory)
    learned = {}
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        counts = file.suffix in KINDS or any(map(file.match, also))
        if not counts or not file.is_file():
            continue
        real = file.resolve()
        state = real.stat()
        key = f"{real}:{state.st_size}:{state.st_mtime_ns}"
        content = known.get(key) or _hash(real)
        learned[key] = content
        digest.update(f"{file.name}\0{content}\0".encode())
    if not learned.keys() <= known.keys():
        write_sealed(memory, {**known, **learned})
    return digest.hexdigest()[:16]


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
