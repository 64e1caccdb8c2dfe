"""What the questions of a run are, as a hash: a changed file makes other points."""

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from glob import glob
from pathlib import Path
from typing import Any

import yaml

KINDS = {".yaml", ".json", ".jsonl", ".csv", ".parquet", ".txt"}


def digest(
    index: Mapping[str, Any], names: Iterable[str], own: Path, datasets: Path = Path()
) -> str:
    """Hash of what tasks outside of lm-eval are made of: sixteen hex digits.

    That is what lies beside the YAML of each, of tasks in groups and under tags too, and in a
    folder `data` there; YAML that they include; and files here that they read elsewhere. `index` is
    lm-eval's, the tasks in the folder `own` are this project's, and data files are looked for from
    `datasets`.
    """
    library = Path(importlib.util.find_spec("lm_eval").origin).parent  # type: ignore[union-attr,arg-type]
    entries = [
        entry
        for entry in _entries(index, names)
        if entry.yaml_path and not Path(entry.yaml_path).is_relative_to(library)
    ]
    found = hashlib.sha256()

    def add(name: object, content: bytes) -> None:
        found.update(f"{name}\0".encode())
        found.update(hashlib.sha256(content).digest())

    for folder in sorted({Path(entry.yaml_path).parent for entry in entries}):
        # Of this project's own Python only the generator changes, and it changes no question.
        kinds = KINDS if folder.is_relative_to(own) else KINDS | {".py"}
        for file in sorted((*folder.glob("*"), *folder.glob("data/**/*"))):
            if file.suffix in kinds and file.is_file():
                add(file.relative_to(folder), file.read_bytes())
    for entry in entries:
        if not Path(entry.yaml_path).is_relative_to(own):  # these keep to their folder
            for file in (*_included(Path(entry.yaml_path)), *_data_files(entry.cfg, datasets)):
                add(file.name, file.read_bytes())
    return found.hexdigest()[:16]


def _entries(index: Mapping[str, Any], names: Iterable[str]) -> list[Any]:
    """The entries of tasks, and of all that stand in their groups or under their tags, by name."""
    found: dict[str, Any] = {}
    left = list(names)
    while left:
        if (name := left.pop()) in found or name not in index:
            continue
        found[name] = entry = index[name]
        left += entry.tags if entry.yaml_path is None else _named(entry.cfg.get("task"))
    return [entry for _, entry in sorted(found.items())]


def _named(tasks: object) -> Iterator[str]:
    """The names in what a group says of its tasks, which may be groups themselves."""
    if isinstance(tasks, str):
        yield tasks
    elif isinstance(tasks, dict):
        yield from _named(tasks.get("task"))
    elif isinstance(tasks, list):
        for task in tasks:
            yield from _named(task)


def _included(file: Path) -> Iterator[Path]:
    """The YAML that a task's takes its settings from, and theirs, with the Python beside it."""
    # It reads tags such as `!function` as text.
    include = yaml.load(file.read_text(encoding="utf-8"), yaml.BaseLoader).get("include") or []
    for name in [include] if isinstance(include, str) else include:
        if (base := file.parent / name).is_file():
            yield base
            yield from sorted(base.parent.glob("*.py"))
            yield from _included(base)


def _data_files(settings: object, datasets: Path) -> Iterator[Path]:
    """The files here that `data_files` names anywhere in a task's settings or a group's."""
    if isinstance(settings, list):
        for each in settings:
            yield from _data_files(each, datasets)
    elif isinstance(settings, dict):
        for key, value in settings.items():
            if key != "data_files":
                yield from _data_files(value, datasets)
                continue
            for name in _texts(value):
                pattern = datasets / Path(name).expanduser()
                yield from sorted(filter(Path.is_file, map(Path, glob(str(pattern)))))


def _texts(value: object) -> Iterator[str]:
    """The names in what `data_files` may be: one, a list, or either by split."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
