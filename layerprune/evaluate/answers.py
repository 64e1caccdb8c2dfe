"""Answers on disk, by what they follow from: every later job reads them.

A file holds the answers of all cut models of one model to one chunk of questions. Its name is a
hash of the chunk's tokens; the folder's name has the model's weights, precision and kind of device,
and the versions of what computes.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers

from layerprune.evaluate.contexts import Answer, Group
from layerprune.files import read_sealed, write_sealed
from layerprune.locks import alone
from layerprune.paths import tree

VERSION = 2
"""Raised whenever the scoring changes an answer by more than rounding."""


class Answers:
    """The answers of cut models of one model."""

    def __init__(self, folder: Path, model: str) -> None:
        """Keep them below `folder`; `model` names weights, precision and kind of device."""
        self._folder = folder / f"{model}-{VERSION}-{transformers.__version__}-{torch.__version__}"

    @contextmanager
    def of(self, chunk: Group) -> Iterator["Chunk"]:
        """What is known of a chunk; inside the block no other job works on it."""
        path = self._path(chunk)
        with alone(path):
            yield Chunk(path)

    @contextmanager
    def of_free(self, chunk: Group) -> Iterator["Chunk | None"]:
        """The same, or None where another process is at it."""
        path = self._path(chunk)
        with alone(path, wait_s=0.0) as mine:
            yield Chunk(path) if mine else None

    def read(self, chunk: Group) -> "Chunk":
        """What is known of a chunk, for a look at it."""
        return Chunk(self._path(chunk))

    def _path(self, chunk: Group) -> Path:
        return self._folder / f"{_name(chunk)}.json"


class Chunk:
    """The answers to some questions, by the layers that a cut model keeps."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)

    def of(self, path: tree.Path) -> list[Answer] | None:
        """The answers of a cut model in the chunk's order, if they are known."""
        found = self._known.get(_layers(path))
        return None if found is None else [(value, greedy) for value, greedy in found]

    def add(self, paths: Sequence[tree.Path], answers: Sequence[Sequence[Answer]]) -> None:
        """Keep the answers of more cut models; not those of one that gives no numbers."""
        for path, found in zip(paths, answers, strict=True):
            if all(math.isfinite(value) for value, _ in found):
                self._known[_layers(path)] = list(found)
        write_sealed(self._path, {"chunk": self._path.stem, "answers": self._known})


def _read(path: Path) -> dict[str, list[Answer]]:
    try:
        content = read_sealed(path)
        known = content["answers"] if content["chunk"] == path.stem else {}
        return {
            str(layers): [(float(value), bool(greedy)) for value, greedy in found]
            for layers, found in known.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {}  # not there, or damaged: it is made again


def _layers(path: tree.Path) -> str:
    return ",".join(map(str, path))


def _name(chunk: Group) -> str:
    """Sixteen hex digits of a hash of all tokens, in their order."""
    digest = hashlib.sha256()
    for context in chunk.contexts:
        for ids in (chunk.prefix, context.ids, *(option.ids for option in context.options)):
            digest.update(np.array([len(ids), *ids], dtype=np.int64).tobytes())
        digest.update(len(context.options).to_bytes(8, "little"))
    return digest.hexdigest()[:16]
