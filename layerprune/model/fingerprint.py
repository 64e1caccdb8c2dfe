"""Hash a model's files into a fingerprint of sixteen hex digits."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from layerprune.runtime.atomic_files import read_checksummed, sha256, write_checksummed
from layerprune.runtime.cache import read_intact


def fingerprint(folder: Path, hashes: Path, patterns: Sequence[str]) -> str:
    """Return a hash of every byte of a model's files that match one of `patterns`."""
    matching = {file for pattern in patterns for file in folder.glob(pattern)}
    files = [file for file in sorted(matching) if file.is_file()]
    digest = hashlib.sha256()
    for file, content in zip(files, content_hashes(files, hashes), strict=True):
        digest.update(f"{file.name}\0{content}\0".encode())
    return digest.hexdigest()[:16]


def content_hashes(files: Sequence[Path], hashes: Path) -> list[str]:
    """Return the SHA-256 of each file, in hex digits.

    The JSON file `hashes` remembers them by path, size and modification time, so that only the
    first run reads a file.
    """
    memo = read_intact(hashes, read_checksummed) or {}
    digests, current = [], {}
    for file in files:
        real = file.resolve()  # several names may lead to one file
        state = real.stat()
        key = f"{real}:{state.st_size}:{state.st_mtime_ns}"
        current[key] = memo.get(key) or _sha256(real)
        digests.append(current[key])
    if not current.keys() <= memo.keys():
        write_checksummed(hashes, {**memo, **current})
    return digests


def _sha256(file: Path) -> str:
    # In the hub's cache a large file is a link to a file that is named by its SHA-256.
    if len(file.name) == 64 and set(file.name) <= set("0123456789abcdef"):
        return file.name
    return sha256(file)
