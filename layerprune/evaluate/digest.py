"""A hash of the files of evaluation tasks, which is part of a point's key."""

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from glob import glob
from pathlib import Path
from typing import Any

import yaml

SUFFIXES = {".yaml", ".json", ".jsonl", ".csv", ".parquet", ".txt"}


def digest(
    index: Mapping[str, Any], names: Iterable[str], own: Path, datasets: Path = Path()
) -> str:
    """Return 16 hex digits of a hash of the files of tasks outside lm-eval.

    These are the files beside each task's YAML and in a folder `data` there, included YAML, and
    local data files. Tasks in groups and under tags count too. `index` is lm-eval's; tasks in the
    folder `own` are this project's, and paths of data files are relative to `datasets`.
    """
    library = Path(importlib.util.find_spec("lm_eval").origin).parent  # type: ignore[union-attr,arg-type]
    entries = [
        entry
        for entry in _entries(index, names)
        if entry.yaml_path and not Path(entry.yaml_path).is_relative_to(library)
    ]
    result = hashlib.sha256()

    def add(name: object, content: bytes) -> None:
        result.update(f"{name}\0".encode())
        result.update(hashlib.sha256(content).digest())

    for folder in sorted({Path(entry.yaml_path).parent for entry in entries}):
        # This project's own Python changes no question.
        suffixes = SUFFIXES if folder.is_relative_to(own) else SUFFIXES | {".py"}
        for file in sorted((*folder.glob("*"), *folder.glob("data/**/*"))):
            if file.suffix in suffixes and file.is_file():
                add(file.relative_to(folder), file.read_bytes())
    for entry in entries:
        if not Path(entry.yaml_path).is_relative_to(own):  # these use no file elsewhere
            for file in (*_included(Path(entry.yaml_path)), *_data_files(entry.cfg, datasets)):
                add(file.name, file.read_bytes())
    return result.hexdigest()[:16]


def _entries(index: Mapping[str, Any], names: Iterable[str]) -> list[Any]:
    """Return the entries of tasks, groups, tags and all their members, sorted by name."""
    entries: dict[str, Any] = {}
    queue = list(names)
    while queue:
        if (name := queue.pop()) in entries or name not in index:
            continue
        entries[name] = entry = index[name]
        queue += entry.tags if entry.yaml_path is None else _member_names(entry.cfg.get("task"))
    return [entry for _, entry in sorted(entries.items())]


def _member_names(tasks: object) -> Iterator[str]:
    """Yield the names in a group's field `task`, whose items may be groups themselves."""
    if isinstance(tasks, str):
        yield tasks
    elif isinstance(tasks, dict):
        yield from _member_names(tasks.get("task"))
    elif isinstance(tasks, list):
        for task in tasks:
            yield from _member_names(task)


def _included(file: Path) -> Iterator[Path]:
    """Yield the YAML files that a YAML file includes, recursively, with the Python beside them."""
    # The base loader reads tags such as `!function` as text.
    include = yaml.load(file.read_text(encoding="utf-8"), yaml.BaseLoader).get("include") or []
    for name in [include] if isinstance(include, str) else include:
        if (base := file.parent / name).is_file():
            yield base
            yield from sorted(base.parent.glob("*.py"))
            yield from _included(base)


def _data_files(settings: object, datasets: Path) -> Iterator[Path]:
    """Yield the local files of every `data_files` in the settings of a task or group."""
    if isinstance(settings, list):
        for item in settings:
            yield from _data_files(item, datasets)
    elif isinstance(settings, dict):
        for key, value in settings.items():
            if key != "data_files":
                yield from _data_files(value, datasets)
                continue
            for name in _strings(value):
                pattern = datasets / Path(name).expanduser()
                yield from sorted(filter(Path.is_file, map(Path, glob(str(pattern)))))


def _strings(value: object) -> Iterator[str]:
    """Yield all strings in a string, list or dictionary."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
