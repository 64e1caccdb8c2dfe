"""Find rows of tasks that cannot be asked, before any model is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from layerprune.errors import UserError, explained


@contextmanager
def explained_rows() -> Iterator[None]:
    """Raise `ValueError` with the reason if lm-eval fails to read a task's first row."""
    try:
        yield
    except StopIteration as error:  # from datasets, for an empty file
        raise ValueError("a data file of the task has no rows: add questions to it") from error
    except (TypeError, IndexError) as error:
        raise ValueError(
            "the first row is not what the task's YAML says: each option must be text, not empty"
        ) from error


def check_tasks(loaded: Any, limit: int | None) -> None:
    """Raise `UserError` for a group without tasks, a task without questions, or an odd option."""
    for name, group in loaded["groups"].items():
        if not group.get_all_tasks():
            raise UserError(f"eval.tasks: the group {name} has no tasks.")
    for name, task in loaded["tasks"].items():
        with explained(f"eval.tasks: the questions of {name} cannot be read"):
            docs = list(islice(task.eval_docs, limit))
        if not docs:
            raise UserError(f"eval.tasks: {name} has no questions: look into its data files.")
        for number, doc in enumerate(docs if task.OUTPUT_TYPE == "multiple_choice" else ()):
            with explained(f"eval.tasks: row {number} of {name} cannot be asked"):
                options = list(task.doc_to_choice(doc))
            for option in options or [None]:
                if not isinstance(option, str) or not option:
                    raise UserError(
                        f"eval.tasks: row {number} of {name} has the option {option!r}: each "
                        "must be text, and not empty."
                    )


def check_lengths(loaded: Any, limit: int | None, tokenizer: Any, window: int | None) -> None:
    """Raise `UserError` for an option that is longer than the model's window of tokens."""
    if window is None:
        return
    for name, task in loaded["tasks"].items():
        docs = islice(task.eval_docs, limit) if task.OUTPUT_TYPE == "multiple_choice" else ()
        for number, doc in enumerate(docs):
            for option in task.doc_to_choice(doc):
                # A token is a byte at least.
                if len(option.encode()) >= window and len(tokenizer(option)["input_ids"]) > window:
                    raise UserError(
                        f"eval.tasks: an option in row {number} of {name} is longer than the "
                        f"model's window of {window} tokens: remove that row."
                    )
