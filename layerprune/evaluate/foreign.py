"""What task files that are not lm-eval's or this project's may do: name data, templates, measures.

lm-eval runs any Python that a task file names (`!function`), fetches measures that it does not know
as code from the hub, and fills templates in with all that Python has. Here the first two are done
where the user said so, and templates see their question only.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lm_eval
from jinja2.sandbox import SandboxedEnvironment
from lm_eval import utils
from lm_eval.api import registry, task
from lm_eval.tasks import _yaml_loader

from layerprune.errors import UserError
from layerprune.progress import say_once


@contextmanager
def fenced(own: Sequence[Path], trusted: bool) -> Iterator[None]:
    """Within it, only lm-eval's tasks and those in `own` may run code, unless all are `trusted`.

    Templates are fenced from then on. Raises `UserError` where a task needs more.
    """
    utils.env = _sandboxed(utils.env)
    heard = _say if trusted else _refuse
    function, metric = _yaml_loader._import_func_in_yml, task.get_metric
    _yaml_loader._import_func_in_yml = _watched_function(function, own, heard)
    task.get_metric = _watched_metric(metric, heard)
    try:
        yield
    finally:
        _yaml_loader._import_func_in_yml, task.get_metric = function, metric


def _sandboxed(plain: Any) -> SandboxedEnvironment:
    """The same templates, without the way from a value to all of Python."""
    if isinstance(plain, SandboxedEnvironment):
        return plain
    fenced = SandboxedEnvironment(
        undefined=plain.undefined, keep_trailing_newline=plain.keep_trailing_newline
    )
    fenced.filters.update(plain.filters)
    return fenced


def _watched_function(
    import_function: Callable[[str, Path], Any],
    own: Sequence[Path],
    heard: Callable[[str], None],
) -> Callable[[str, Path], Any]:
    known = [folder.resolve() for folder in (Path(lm_eval.__file__).parent, *own)]

    def watched(name: str, folder: Path) -> Any:
        if not any(folder.resolve().is_relative_to(each) for each in known):
            heard(f"eval.include_path: a task file in {folder} names code, {name}.")
        return import_function(name, folder)

    return watched


def _watched_metric(
    get_metric: Callable[..., Any], heard: Callable[[str], None]
) -> Callable[..., Any]:
    def watched(name: str, hf_evaluate_metric: bool = False) -> Any:
        if hf_evaluate_metric or name not in registry.metric_registry:
            heard(f"eval.tasks: the measure {name} is code from elsewhere.")
        return get_metric(name, hf_evaluate_metric)

    return watched


def _refuse(what: str) -> None:
    raise UserError(
        f"{what} eval.trust_task_code=true runs it here, with all that you may do yourself: "
        "read it first."
    )


def _say(what: str) -> None:
    say_once(f"{what} It runs here, with all that you may do yourself (eval.trust_task_code=true).")
