"""Text of a data set on the hub, or in a folder, read as a stream: no more than is needed."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerprune.errors import UserError
from layerprune.files import sha256

Turns = list[dict[str, str]]
"""A conversation: each turn with its `role` and `content`."""

Render = Callable[[Turns], str]
"""Writes a conversation as a model reads it."""

SHARES = {"calibration": (0, 20), "heldout": (20, 40), "healing": (40, 100)}
"""Of a hundred, by a document's hash: which documents a part may have. A document that stands in
two splits, or twice in one, is in one part all the same."""


@dataclass(frozen=True)
class Stream:
    """The documents of one part, read anew each time that it is gone through."""

    part: str
    open: Callable[[], Iterator[str]]

    def __iter__(self) -> Iterator[str]:
        low, high = SHARES[self.part]
        return (text for text in self.open() if low <= _hundredth(text) < high)


def stream(
    path: str, config: str | None, revision: str | None, split: str, field: str, render: Render
) -> Any:
    """A function that goes through the texts of one split of a data set from its start.

    Where the field has conversations, `render` writes them. Raises `UserError` where there is no
    such data set, split or field.
    """

    def texts() -> Iterator[str]:
        import datasets

        # `datasets` takes a name for an id on the hub where no such folder is.
        folder = Path(path).expanduser()
        place = str(folder) if folder.is_dir() else path
        try:
            rows = datasets.load_dataset(
                place, config, revision=revision, split=split, streaming=True
            )
            for row in rows:
                if field not in row:
                    raise UserError(f"data.field={field}: {path} has the fields {', '.join(row)}.")
                found = row[field]
                text = render(found) if found and isinstance(found, list) else found
                if text and not text.isspace():
                    yield text
        except UserError:
            raise
        except Exception as error:  # each data set has its own ways to fail
            reason = " ".join(str(error).split())
            raise UserError(f"data.hub={path} ({split}) cannot be read: {reason}") from error

    return texts


def patience() -> float:
    """Seconds after which the hub's client gives up on a server that says nothing.

    By itself it waits for ever. What is not told otherwise keeps to it once this was called.
    """
    from huggingface_hub import constants, get_session

    seconds = max(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)
    get_session().timeout = seconds
    return float(seconds)


def content_of(path: str, revision: str | None) -> str:
    """What names a data set's content: the commit on the hub, or a hash of a folder's files."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        digest = hashlib.sha256()
        for file in sorted(each for each in folder.rglob("*") if each.is_file()):
            digest.update(f"{file.relative_to(folder)}\0{sha256(file)}\0".encode())
        return digest.hexdigest()
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(path, revision=revision, timeout=patience()).sha)
    except Exception as error:  # what stands between here and the hub has its own ways to fail
        raise UserError(
            f"data.hub={path} is neither a folder here nor to be had from the hub "
            f"({type(error).__name__})."
        ) from error


def _hundredth(text: str) -> int:
    """A number from 0 to 99 that follows from a text, whatever its spaces."""
    digest = hashlib.sha256(" ".join(text.split()).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100
