"""The door to lm-eval: it owns prompts, few-shot examples, metrics and aggregation."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerprune.config.schema import EvalConfig
from layerprune.errors import UserError

OWN_TASKS = Path(__file__).parent / "tasks"

FEWSHOT_SEED = 1234
"""lm-eval's own default: with another one its few-shot examples, and its scores, would differ."""

# It warns of every task that brings its own data and of every model that is already in memory.
logging.getLogger("lm_eval").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Measure:
    """One number that lm-eval gives for a task."""

    value: float
    stderr: float | None


@dataclass(frozen=True)
class Score:
    """What lm-eval says of one task or group."""

    task: str
    parent: str | None
    """The group this task was counted in, if any."""
    measures: dict[str, Measure]
    """By lm-eval's name: acc, acc_norm, exact_match, ..."""
    num_samples: int
    num_fewshot: int
    version: str
    chance: float | None
    """Accuracy of blind guessing: the mean of 1 / number of options; None without options."""
    correct: str | None
    """A digit for each question in lm-eval's order, 1 where `acc` counts it as right."""


class Questions:
    """The tasks of a run: found before a model is loaded, loaded when first asked."""

    def __init__(self, config: EvalConfig) -> None:
        """Raise `UserError` for a task that lm-eval does not know."""
        self._config = config
        self._manager = _task_manager(config)
        self.digest = _digest(_task_folders(config))
        """Hash of the task files outside of lm-eval; lm-eval's own carry version numbers."""
        self._loaded: Any = None

    def score(self, lm: Any) -> list[Score]:
        """The scores of an lm-eval model on every task and group, in lm-eval's order."""
        from lm_eval.evaluator import evaluate

        self.load()
        results = evaluate(
            lm=lm, task_dict=self._loaded, limit=self._config.limit, log_samples=True
        )
        parents = {
            child: group
            for group, children in results["group_subtasks"].items()
            for child in children
        }
        scored = {**results.get("groups", {}), **results["results"]}
        return [_score(name, scored[name], results, parents.get(name)) for name in scored]

    def load(self) -> None:
        """Read the tasks' data, once. Raises `UserError` where it is not to be had."""
        if self._loaded is not None:
            return
        names = list(self._config.tasks)
        try:
            loaded = self._manager.load(names)
        except Exception as error:  # each data set has its own ways to fail
            reason = " ".join(str(error).split())
            raise UserError(f"eval.tasks={names} cannot be loaded: {reason}") from error
        for task in loaded["tasks"].values():
            own = task.get_config("num_fewshot")
            asked = self._config.num_fewshot
            # lm-eval's own rule: a task that says 0 keeps 0, whatever is asked.
            if own is None or (asked is not None and own != 0):
                task.set_config(key="num_fewshot", value=asked or 0)
            task.set_fewshot_seed(seed=FEWSHOT_SEED)
        self._loaded = loaded


def _task_manager(config: EvalConfig) -> Any:
    """lm-eval's index of tasks; its 14,000 built-in ones, which take seconds, only when needed."""
    from lm_eval.tasks import TaskManager

    folders: list[str | Path] = list(_task_folders(config))
    own = TaskManager(include_path=folders, include_defaults=False)
    if set(config.tasks) <= set(own.all_tasks):
        return own
    every = TaskManager(include_path=folders)
    for task in config.tasks:
        if task not in every.all_tasks:
            raise UserError(f"eval.tasks: {task} is not known. {_suggestion(task, every, own)}")
    return every


def _task_folders(config: EvalConfig) -> list[Path]:
    if config.include_path is None:
        return [OWN_TASKS]
    folder = Path(config.include_path)
    if not folder.is_dir():
        raise UserError(f"eval.include_path={folder} is not a folder.")
    return [OWN_TASKS, folder]


def _digest(folders: list[Path]) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        # Of this project's own Python only the generator changes, and it changes no question.
        kinds = {".yaml", ".json", ".jsonl", ".csv", ".parquet", ".txt"}
        kinds |= set() if folder == OWN_TASKS else {".py"}
        for file in sorted(folder.rglob("*")):
            if file.suffix in kinds and file.is_file():
                digest.update(f"{file.relative_to(folder)}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _suggestion(task: str, every: Any, own: Any) -> str:
    import difflib

    near = difflib.get_close_matches(task, every.all_tasks, n=3)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}Of this project: {', '.join(own.all_tasks)}; `lm_eval ls tasks` lists the rest."


def _score(name: str, row: dict[str, Any], results: Any, parent: str | None) -> Score:
    samples = results["samples"].get(name)
    children = _leaves(name, results["group_subtasks"])
    every = (
        samples
        if samples is not None
        else [sample for child in children for sample in results["samples"][child]]
    )
    return Score(
        task=name,
        parent=parent,
        measures=_measures(row),
        num_samples=len(every),
        num_fewshot=int(results["n-shot"].get(name, 0)),
        version=str(results["versions"].get(name)),
        chance=_chance([results["configs"][child] for child in children], every),
        correct=(
            "".join(str(int(sample["acc"])) for sample in samples)
            if samples and "acc" in samples[0]
            else None
        ),
    )


def _leaves(name: str, children: dict[str, list[str]]) -> list[str]:
    """The tasks below a group; a task itself."""
    below = children.get(name)
    return [leaf for child in below for leaf in _leaves(child, children)] if below else [name]


def _measures(row: dict[str, Any]) -> dict[str, Measure]:
    """Every number of a result row; lm-eval's keys are `measure,filter`."""
    measures = {}
    for key, value in row.items():
        measure, comma, kind = key.partition(",")
        if not comma or measure.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = row.get(f"{measure}_stderr,{kind}")
        name = measure if kind == "none" else f"{measure}.{kind}"
        measures[name] = Measure(
            float(value), float(stderr) if isinstance(stderr, int | float) else None
        )
    return measures


def _chance(configs: Sequence[Any], samples: Sequence[Any]) -> float | None:
    if not samples or any(config["output_type"] != "multiple_choice" for config in configs):
        return None
    return sum(1 / len(sample["arguments"]) for sample in samples) / len(samples)
