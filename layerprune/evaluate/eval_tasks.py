"""Evaluation tasks of lm-eval, which owns prompts, few-shot examples, metrics and aggregation."""

import difflib
import logging
import random
import time
from collections.abc import Mapping
from contextlib import chdir
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layerprune.config.schema import EvalConfig
from layerprune.errors import UserError, explained
from layerprune.evaluate.digest import digest
from layerprune.evaluate.scores import scores_of
from layerprune.evaluate.task_rows import check_lengths, check_tasks, explained_rows
from layerprune.evaluate.token_cache import TokenCache
from layerprune.record.scores import Score

OWN_TASKS = Path(__file__).parent / "tasks"

FEWSHOT_SEED = 1234
"""lm-eval's default, which determines its few-shot examples and so its scores."""

# lm-eval warns about every task with its own data and every model that is already in memory.
logging.getLogger("lm_eval").setLevel(logging.ERROR)


class EvalTasks:
    """The tasks of a run, found when this is created and loaded when first used."""

    def __init__(self, config: EvalConfig) -> None:
        """Raise `UserError` for unknown tasks and missing folders."""
        self._config = config
        self._datasets_dir = _folder("datasets_dir", config.datasets_dir or ".")
        self._manager = _task_manager(config)
        self.digest = digest(self._manager.task_index, config.tasks, OWN_TASKS, self._datasets_dir)
        """Hash of the files of tasks outside lm-eval; its own tasks have version numbers."""
        self._loaded: Any = None
        self.prompt_seconds = 0.0
        """Duration of making prompts, over all models."""
        self._tokens = "", TokenCache()

    def token_cache(self, fingerprint: str) -> TokenCache:
        """Return the tokens of the prompts for a model with this fingerprint.

        All of its cut and healed models have the same tokenizer. Tokens for another model are
        dropped.
        """
        if self._tokens[0] != fingerprint:
            self._tokens = fingerprint, TokenCache()
        return self._tokens[1]

    def score(self, lm: Any) -> list[Score]:
        """Return the scores of an lm-eval model on every task and group, in lm-eval's order."""
        from lm_eval.evaluator import evaluate
        from tqdm import tqdm

        tqdm.monitor_interval = 0  # its thread is not needed, and hangs if it starts without memory
        if not self._config.tasks:
            return []
        self.load()
        _seed()
        for task in self._loaded["tasks"].values():
            # The sampler keeps its state: without this, each model would see other examples.
            seed = self._config.fewshot_seed
            task.set_fewshot_seed(seed=FEWSHOT_SEED if seed is None else seed)
        chat = self._config.chat_template
        results = evaluate(
            lm=lm,
            task_dict=self._loaded,
            limit=self._config.limit,
            log_samples=True,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
        return scores_of(results, self._loaded["tasks"])

    def check(self, tokenizer: Any, window: int | None) -> None:
        """Raise `UserError` for what the tokenizer, or a model with this window, cannot do."""
        if self._config.chat_template and not getattr(tokenizer, "chat_template", None):
            raise UserError("eval.chat_template=true: the model's tokenizer has no chat template.")
        starts = (getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id"))
        if self._config.tasks and all(token is None for token in starts):
            raise UserError(
                "eval.tasks: lm-eval starts prompts with a BOS or EOS token, and the model's "
                "tokenizer has neither. Set bos_token or eos_token in its tokenizer_config.json."
            )
        if self._loaded is not None:
            check_lengths(self._loaded, self._config.limit, tokenizer, window)

    def solved_examples(self) -> list[str]:
        """Return a text per task, by name: its questions with their answers, as few-shot examples.

        Raises `UserError` if a task has no answers that can be written.
        """
        self.load()
        _seed()
        return [_solved_examples(task) for _, task in sorted(self._loaded["tasks"].items())]

    def load(self) -> None:
        """Load the tasks' data, once. Raises `UserError` if that fails."""
        if self._loaded is not None or not self._config.tasks:
            return
        from layerprune.evaluate.task_sandbox import sandboxed_tasks

        names = list(self._config.tasks)
        _seed()
        # `datasets` takes an id for a folder if the working directory has one of that name.
        with (
            explained(f"eval.tasks={names} cannot be loaded"),
            explained_rows(),
            chdir(self._datasets_dir),
            sandboxed_tasks([OWN_TASKS], self._config.trust_task_code),
        ):
            loaded = self._manager.load(names)
        check_tasks(loaded, self._config.limit)
        num_fewshot_of = _by_task(self._config.num_fewshot_of, loaded)
        for name, task in loaded["tasks"].items():
            own = task.get_config("num_fewshot")
            num_fewshot = num_fewshot_of.get(name, self._config.num_fewshot)
            # lm-eval's rule: a task that sets 0 keeps it.
            if own is None or (num_fewshot is not None and own != 0):
                task.set_config(key="num_fewshot", value=num_fewshot or 0)
            if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
                raise UserError(
                    f"eval.tasks: {task.task_name} runs code that the model writes or needs "
                    "images, which is not supported: remove it."
                )
            if self._config.fewshot_seed is not None:
                _shuffle(task, self._config.fewshot_seed)
            self._build_once(task)
        self._loaded = loaded

    def _build_once(self, task: Any) -> None:
        """Make a task build its requests for the first model alone; the others reuse them.

        lm-eval rebuilds them for each model that it evaluates, which takes most of its time.
        They are rebuilt if their arguments differ, such as the tokenizer of a chat template.
        """
        build = task.build_all_requests
        built: dict[str, Any] = {}

        def build_all_requests(**arguments: Any) -> None:
            started = time.monotonic()
            # A method of the model; which one follows from the name of the tokenizer.
            wanted = {name: value for name, value in arguments.items() if name != "chat_template"}
            if built != wanted:
                build(**arguments)
                built.update(wanted)
            for request in task.instances:
                request.resps, request.filtered_resps = [], {}
            self.prompt_seconds += time.monotonic() - started

        task.build_all_requests = build_all_requests


def _by_task(numbers: Mapping[str, int], loaded: Any) -> dict[str, int]:
    """Expand the numbers of tasks and groups to tasks; the innermost name counts."""
    members = {name: [task.task_name for task in group.get_all_tasks()]
             for name, group in loaded["groups"].items()}  # fmt: skip
    members |= {name: [name] for name in loaded["tasks"]}
    for name in numbers:
        if name not in members:
            raise UserError(f"eval.num_fewshot_of: {name} is not in eval.tasks.")
    by_task: dict[str, int] = {}
    for name in sorted(numbers, key=lambda name: (-len(members[name]), name in loaded["tasks"])):
        by_task |= dict.fromkeys(members[name], numbers[name])
    return by_task


def _solved_examples(task: Any) -> str:
    """Return all questions of a task with their right answers."""
    config, turns = task.config, []
    try:
        for doc in task.eval_docs:
            question, answer = task.doc_to_text(doc), task.doc_to_target(doc)
            options: Any = task.doc_to_choice(doc) if config.doc_to_choice else None
            if task.multiple_input:  # the options are contexts, of which one is right
                question, options = options[question], None
            turns += task.build_qa_turn(
                q=question,
                c=options,
                a=answer,
                gen_prefix=task.doc_to_prefix(doc),
                tgt_delim=config.target_delimiter,
                few_delim=config.fewshot_delimiter,
            )
    except Exception as error:  # tasks may be any Python and raise any error
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.calibration=questions: {task.task_name} cannot be written with its right "
            f"answers: {reason}"
        ) from error
    return "".join(turn.to_text() for turn in turns)


def _shuffle(task: Any, seed: int) -> None:
    """Shuffle the few-shot examples of a task that always takes its first ones.

    All questions of a task get the same order, and so still share a prefix.
    """
    from lm_eval.api.samplers import FirstNSampler

    sampler = getattr(task, "sampler", None)
    if isinstance(sampler, FirstNSampler):
        count = task.get_config("num_fewshot")
        first, rest = list(sampler.df[:count]), list(sampler.df[count:])
        random.Random(seed).shuffle(first)
        sampler.replace_df([*first, *rest])


def _task_manager(config: EvalConfig) -> Any:
    """Return an index of tasks; with lm-eval's 14,000, which take seconds, only if needed."""
    from lm_eval.tasks import TaskManager

    folders: list[str | Path] = [OWN_TASKS]
    if config.include_path is not None:  # absolute: tasks are loaded from eval.datasets_dir
        folders.append(_folder("include_path", config.include_path).resolve())
    own = TaskManager(include_path=folders, include_defaults=False)
    # A user's group may name lm-eval's tasks; a user's task may not.
    names = own.all_tasks if config.include_path is None else own.all_subtasks
    if set(config.tasks) <= set(names):
        return own
    every = _all_tasks() if config.include_path is None else TaskManager(include_path=folders)
    for task in config.tasks:
        if task not in every.all_tasks:
            near = difflib.get_close_matches(task, every.all_tasks, n=3)
            hint = f"Did you mean {' or '.join(near)}? " if near else ""
            raise UserError(
                f"eval.tasks: {task} is unknown. {hint}Bundled tasks: {', '.join(own.all_tasks)}; "
                "`lm_eval ls tasks` lists lm-eval's."
            )
    return every


@cache
def _all_tasks() -> Any:
    """Return an index of lm-eval's and this project's tasks, built once for all jobs of a sweep."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=[OWN_TASKS])


def _folder(key: str, name: str) -> Path:
    if not (folder := Path(name)).is_dir():
        raise UserError(f"eval.{key}={name} is not a folder.")
    return folder


def _seed() -> None:
    """Seed the global generators as lm-eval's `simple_evaluate` does, for tasks that shuffle."""
    random.seed(0)
    np.random.seed(FEWSHOT_SEED)
    torch.manual_seed(FEWSHOT_SEED)
