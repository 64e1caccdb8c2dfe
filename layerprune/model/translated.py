"""What libraries raise where a model's files are not what they should be, in words for people."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

from safetensors import SafetensorError

from layerprune.errors import UserError

log = logging.getLogger(__name__)

LOADING = (
    OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError, UnpicklingError
)  # fmt: skip
"""What transformers raises then."""


@contextmanager
def translated(files: Path, anything: bool = False) -> Iterator[None]:
    """Turn what is raised while a model is read from `files` into `UserError`.

    With `anything` all exceptions are meant: code that came with the model, or a reader of damaged
    bytes, may raise what it likes.
    """
    expected = (Exception,) if anything else LOADING
    try:
        yield
    except expected as error:
        log.exception("Loading failed.")
        reason = str(error).strip().split("\n")[0]
        if isinstance(error, UnpicklingError):  # PyTorch's words advise to run it
            reason = "beside weights it holds code, which is not run"
        raise UserError(f"model.path: {files} cannot be loaded: {reason}") from error
