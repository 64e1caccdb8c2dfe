"""Restrictions for task files that are neither lm-eval's nor this project's.

lm-eval runs any Python that a task file names (`!function`), downloads unknown measures as code,
and gives templates access to all of Python. Here the first two need the user's consent, and
templates see their question only.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import lm_eval
from jinja2.sandbox import SandboxedEnvironment
from lm_eval import utils
from lm_eval.api import registry, task
from lm_eval.tasks import _yaml_loader

from layerprune.errors import UserError
from layerprune.runtime.progress import say_once


@contextmanager
def sandboxed_tasks(own: Sequence[Path], trusted: bool) -> Iterator[None]:
    """Inside the block, only lm-eval's tasks and those in `own` may run code, unless `trusted`.

    Templates stay sandboxed. Raises `UserError` if a task needs more.
    """
    utils.env = _sandboxed(utils.env)
    import_function, get_metric = _yaml_loader._import_func_in_yml, task.get_metric
    folders = [folder.resolve() for folder in (Path(lm_eval.__file__).parent, *own)]

    def report(finding: str) -> None:
        if not trusted:
            raise UserError(
                f"{finding} Read it first; eval.trust_task_code=true runs it with all your "
                "permissions."
            )
        say_once(f"{finding} It has all your permissions (eval.trust_task_code=true).")

    def watched_function(name: str, folder: Path) -> Any:
        if not any(folder.resolve().is_relative_to(parent) for parent in folders):
            report(f"eval.include_path: a task file in {folder} runs the code {name}.")
        return import_function(name, folder)

    def watched_metric(name: str, hf_evaluate_metric: bool = False) -> Any:
        if hf_evaluate_metric or name not in registry.metric_registry:
            report(f"eval.tasks: the measure {name} is code from the hub.")
        return get_metric(name, hf_evaluate_metric)

    _yaml_loader._import_func_in_yml, task.get_metric = watched_function, watched_metric
    try:
        yield
    finally:
        _yaml_loader._import_func_in_yml, task.get_metric = import_function, get_metric


def _sandboxed(plain: Any) -> SandboxedEnvironment:
    """Return the template environment without access from values to all of Python."""
    if isinstance(plain, SandboxedEnvironment):
        return plain
    sandboxed = SandboxedEnvironment(
        undefined=plain.undefined, keep_trailing_newline=plain.keep_trailing_newline
    )
    sandboxed.filters.update(plain.filters)
    # lm-eval compiles a task's templates again for each question, which takes most of its time.
    compiled: Any = lru_cache(maxsize=1024)(sandboxed.from_string)
    sandboxed.from_string = compiled  # type: ignore[method-assign]
    return sandboxed
