"""Answers on disk, shared by all jobs and processes.

A file holds the answers of all cut models of one model to one group of contexts, or their losses on
one held-out text. Its name is a hash of the tokens. The folder is named by the model's weights,
precision and kind of device, and by the versions of the libraries.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers

from layerprune.evaluate.request_groups import Answer
from layerprune.runtime.atomic_files import read_checksummed, write_checksummed
from layerprune.runtime.cache import read_intact
from layerprune.runtime.locks import WAIT_S, exclusive_lock
from layerprune.shared_forward.prefix_tree import LayerPath

VERSION = 2
"""Raised whenever the scoring changes an answer by more than rounding."""


class AnswerCache:
    """The answers of all cut models of one model; without a folder, nothing is cached."""

    def __init__(self, folder: Path | None = None, model: str = "") -> None:
        """Store them below `folder`; `model` names weights, precision and kind of device."""
        name = f"{model}-{VERSION}-{transformers.__version__}-{torch.__version__}"
        self._folder = None if folder is None else folder / name

    @contextmanager
    def locked(self, key: str, wait: bool = True) -> Iterator["CachedAnswers | None"]:
        """Yield the answers of a key, locked; unless `wait`, None if another process has them."""
        answers = self.read(key)
        if answers.path is None:
            yield answers
            return
        with exclusive_lock(answers.path, WAIT_S if wait else 0.0) as is_locked:
            yield self.read(key) if wait or is_locked else None

    def read(self, key: str) -> "CachedAnswers":
        """Return the answers of a key without a lock, for reading."""
        return CachedAnswers(None if self._folder is None else self._folder / f"{key}.json")


class CachedAnswers:
    """The answers of one key, by the layers that a cut model keeps."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._answers = {} if path is None else read_intact(path, _answers) or {}

    def get(self, path: LayerPath) -> list[Answer] | None:
        """Return the answers of a cut model in their order, or None if there are none."""
        return self._answers.get(_layers(path))

    def add(self, paths: Sequence[LayerPath], answers: Sequence[Sequence[Answer]]) -> None:
        """Store the answers of more cut models, except those that are not finite."""
        for path, of_path in zip(paths, answers, strict=True):
            if all(math.isfinite(value) for value, _ in of_path):
                self._answers[_layers(path)] = list(of_path)
        if self.path is not None:
            write_checksummed(self.path, {"chunk": self.path.stem, "answers": self._answers})


def _answers(path: Path) -> dict[str, list[Answer]]:
    content = read_checksummed(path)
    answers = content["answers"] if content["chunk"] == path.stem else {}
    return {
        str(layers): [(float(value), bool(greedy)) for value, greedy in of_path]
        for layers, of_path in answers.items()
    }


def _layers(path: LayerPath) -> str:
    return ",".join(map(str, path))
