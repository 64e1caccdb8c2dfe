"""Stream the text of a data set on the hub or in a folder, reading no more than needed."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerprune.config.schema import DataConfig
from layerprune.data.conversations import RenderConversation, located, valid_text
from layerprune.errors import UserError, explained
from layerprune.runtime.atomic_files import sha256

PERCENTILES = {"calibration": (0, 20), "heldout": (20, 40), "healing": (40, 100)}
"""Documents of each part, by a hash of their text: a document that occurs twice, or in two splits,
is in one part all the same."""


@dataclass(frozen=True)
class DocumentStream:
    """The documents of one part of a data set, read again for each iteration.

    `render` writes conversations. Raises `UserError` if there is no such data set, split or field.
    """

    part: str
    split: str
    config: DataConfig
    render: RenderConversation

    def __iter__(self) -> Iterator[str]:
        low, high = PERCENTILES[self.part]
        return (text for text in self._texts() if low <= _percentile(text) < high)

    def _texts(self) -> Iterator[str]:
        import datasets

        # `datasets` takes a path without a folder for an id on the hub.
        hub, config = str(self.config.hub), self.config
        path = str(folder) if (folder := Path(hub).expanduser()).is_dir() else hub
        with explained(f"data.hub={hub} ({self.split}) cannot be read"):
            rows: Any = datasets.load_dataset(
                path, config.config, revision=config.revision, split=self.split, streaming=True
            )
            for number, row in enumerate(rows):
                if config.field not in row:
                    raise UserError(
                        f"data.field={config.field}: {hub} has the fields {', '.join(row)}."
                    )
                value = row[config.field]
                if value and isinstance(value, list):
                    with located(f"data.hub={hub} ({self.split}), row {number}"):
                        value = self.render(value)
                if value and not value.isspace():
                    yield valid_text(value)


def hub_timeout() -> float:
    """Return the seconds after which the hub's client gives up on a silent server, and set them.

    Its default is to wait forever; the setting holds for all later requests without a timeout.
    """
    from huggingface_hub import constants, get_session

    seconds = max(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)
    get_session().timeout = seconds
    return float(seconds)


def dataset_identity(path: str, revision: str | None) -> str:
    """Return what identifies a data set's content: its commit, or a hash of a folder's files."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        digest = hashlib.sha256()
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"{file.relative_to(folder)}\0{sha256(file)}\0".encode())
        return digest.hexdigest()
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(path, revision=revision, timeout=hub_timeout()).sha)
    except Exception as error:  # proxies and mirrors raise their own errors
        raise UserError(
            f"data.hub={path} is no local folder, and cannot be downloaded from the hub "
            f"({type(error).__name__})."
        ) from error


def _percentile(text: str) -> int:
    """Return a number from 0 to 99 that depends on a text's words only."""
    digest = hashlib.sha256(" ".join(text.split()).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100
