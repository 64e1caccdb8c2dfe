"""The door to lm-eval: it owns prompts, few-shot examples, metrics and aggregation."""

import logging
import sys
from collections.abc import Mapping
from contextlib import chdir
from functools import cache
from pathlib import Path
from typing import Any

from layerprune.config.schema import EvalConfig
from layerprune.errors import UserError
from layerprune.evaluate.digest import digest
from layerprune.evaluate.score import Score, scores_of
from layerprune.progress import say_once

OWN_TASKS = Path(__file__).parent / "tasks"

MANY = 2000
"""Questions whose prompts take lm-eval some time to make."""

FEWSHOT_SEED = 1234
"""lm-eval's own default: with another one its few-shot examples, and its scores, would differ."""

# It warns of every task that brings its own data and of every model that is already in memory.
logging.getLogger("lm_eval").setLevel(logging.ERROR)


class Questions:
    """The tasks of a run: found before a model is loaded, loaded when first asked."""

    def __init__(self, config: EvalConfig) -> None:
        """Raise `UserError` for a task that lm-eval does not know, and folders that are none."""
        if config.datasets_dir is not None and not Path(config.datasets_dir).is_dir():
            raise UserError(f"eval.datasets_dir={config.datasets_dir} is not a folder.")
        self._config = config
        self._manager = _task_manager(config)
        datasets = Path(config.datasets_dir or ".")
        self.digest = digest(self._manager.task_index, config.tasks, OWN_TASKS, datasets)
        """Hash of what tasks outside of lm-eval are made of; its own carry version numbers."""
        self._loaded: Any = None

    def score(self, lm: Any) -> list[Score]:
        """The scores of an lm-eval model on every task and group, in lm-eval's order."""
        from lm_eval.evaluator import evaluate
        from tqdm import tqdm

        # Its thread watches bars that nobody sees, and a start of it that lacks memory never ends.
        tqdm.monitor_interval = 0

        if not self._config.tasks:
            return []
        self.load()
        _seed()
        for task in self._loaded["tasks"].values():
            # A sampler goes on from example to example: without this, each model that is asked
            # would see other solved examples than the one before it.
            seed = self._config.fewshot_seed
            task.set_fewshot_seed(seed=FEWSHOT_SEED if seed is None else seed)
        chat = self._config.chat_template
        count = sum(
            min(len(task.eval_docs), self._config.limit or sys.maxsize)
            for task in self._loaded["tasks"].values()
        )
        if count >= MANY:
            say_once(f"lm-eval makes the prompts of {count} questions first, without a bar.")
        results = evaluate(
            lm=lm,
            task_dict=self._loaded,
            limit=self._config.limit,
            log_samples=True,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
        return scores_of(results, self._loaded["tasks"])

    def check(self, tokenizer: Any) -> None:
        """Raise `UserError` where a model with this tokenizer cannot be asked so."""
        if self._config.chat_template and not getattr(tokenizer, "chat_template", None):
            raise UserError("eval.chat_template=true: the model's tokenizer has no chat template.")

    def solved(self) -> list[str]:
        """A text for each task: all its questions with their right answers, by the task's name.

        Each is as lm-eval writes a solved example, and stands apart from the next as these do.
        Raises `UserError` where a task's right answers are not to be written.
        """
        self.load()
        _seed()
        return [_solved(task) for _, task in sorted(self._loaded["tasks"].items())]

    def load(self) -> None:
        """Read the tasks' data, once. Raises `UserError` where it is not to be had."""
        if self._loaded is not None or not self._config.tasks:
            return
        from layerprune.evaluate.foreign import fenced

        names = list(self._config.tasks)
        _seed()
        try:
            # `datasets` takes an id for a folder if there is one of that name where it stands.
            with (
                chdir(self._config.datasets_dir or "."),
                fenced([OWN_TASKS], self._config.trust_task_code),
            ):
                loaded = self._manager.load(names)
        except UserError:
            raise
        except Exception as error:  # each data set has its own ways to fail
            reason = " ".join(str(error).split())
            raise UserError(f"eval.tasks={names} cannot be loaded: {reason}") from error
        of = _of_each(self._config.num_fewshot_of, loaded)
        for name, task in loaded["tasks"].items():
            own = task.get_config("num_fewshot")
            asked = of.get(name, self._config.num_fewshot)
            # lm-eval's own rule: a task that says 0 keeps 0, whatever is asked.
            if own is None or (asked is not None and own != 0):
                task.set_config(key="num_fewshot", value=asked or 0)
            if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
                raise UserError(
                    f"eval.tasks: {task.task_name} runs the model's own code or shows it pictures: "
                    "that is not done here."
                )
            if self._config.fewshot_seed is not None:
                _shuffle(task, self._config.fewshot_seed)
        self._loaded = loaded


def _of_each(numbers: Mapping[str, int], loaded: Any) -> dict[str, int]:
    """The numbers of single tasks: of what names one or a group around it, the nearest counts."""
    below = {name: [task.task_name for task in group.get_all_tasks()]
             for name, group in loaded["groups"].items()}  # fmt: skip
    below |= {name: [name] for name in loaded["tasks"]}
    for name in numbers:
        if name not in below:
            raise UserError(f"eval.num_fewshot_of: {name} is not one of the tasks that are asked.")
    found: dict[str, int] = {}
    for name in sorted(numbers, key=lambda each: (-len(below[each]), each in loaded["tasks"])):
        found |= dict.fromkeys(below[name], numbers[name])
    return found


def _solved(task: Any) -> str:
    """All questions of a task with their right answers."""
    config, turns = task.config, []
    try:
        for doc in task.eval_docs:
            question, answer = task.doc_to_text(doc), task.doc_to_target(doc)
            options: Any = task.doc_to_choice(doc) if config.doc_to_choice else None
            if task.multiple_input:  # the options are beginnings, of which one is right
                question, options = options[question], None
            turns += task.build_qa_turn(
                q=question,
                c=options,
                a=answer,
                gen_prefix=task.doc_to_prefix(doc),
                tgt_delim=config.target_delimiter,
                few_delim=config.fewshot_delimiter,
            )
    except Exception as error:  # tasks may be any Python, and each has its own ways to fail
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.calibration=questions: {task.task_name} cannot be written with its right "
            f"answers: {reason}"
        ) from error
    return "".join(turn.to_text() for turn in turns)


def _shuffle(task: Any, seed: int) -> None:
    """Put the solved examples of a task that always takes its first ones into another order.

    One order for all questions of a task: they still begin alike.
    """
    import random

    from lm_eval.api.samplers import FirstNSampler

    sampler = getattr(task, "sampler", None)
    if isinstance(sampler, FirstNSampler):
        count = task.get_config("num_fewshot")
        first, rest = list(sampler.df[:count]), list(sampler.df[count:])
        random.Random(seed).shuffle(first)
        sampler.replace_df([*first, *rest])


def _task_manager(config: EvalConfig) -> Any:
    """lm-eval's index of tasks; its 14,000 built-in ones, which take seconds, only when needed."""
    from lm_eval.tasks import TaskManager

    folders: list[str | Path] = list(_task_folders(config))
    own = TaskManager(include_path=folders, include_defaults=False)
    # A user's group may name lm-eval's tasks; a user's task stands alone.
    enough = own.all_tasks if config.include_path is None else own.all_subtasks
    if set(config.tasks) <= set(enough):
        return own
    every = _every_task() if config.include_path is None else TaskManager(include_path=folders)
    for task in config.tasks:
        if task not in every.all_tasks:
            raise UserError(f"eval.tasks: {task} is not known. {_suggestion(task, every, own)}")
    return every


@cache
def _every_task() -> Any:
    """lm-eval's index of its own tasks and of this project's, made once for all jobs of a sweep."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=[OWN_TASKS])


def _task_folders(config: EvalConfig) -> list[Path]:
    if config.include_path is None:
        return [OWN_TASKS]
    folder = Path(config.include_path)
    if not folder.is_dir():
        raise UserError(f"eval.include_path={folder} is not a folder.")
    return [OWN_TASKS, folder.resolve()]  # tasks are loaded from where data sets are


def _suggestion(task: str, every: Any, own: Any) -> str:
    import difflib

    near = difflib.get_close_matches(task, every.all_tasks, n=3)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}Of this project: {', '.join(own.all_tasks)}; `lm_eval ls tasks` lists the rest."


def _seed() -> None:
    """Set the global generators as lm-eval's `simple_evaluate` does: some tasks shuffle options."""
    import random

    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(FEWSHOT_SEED)
    torch.manual_seed(FEWSHOT_SEED)
