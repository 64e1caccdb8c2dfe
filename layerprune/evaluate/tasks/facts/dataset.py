"""The data of the facts tasks, for the ``custom_dataset`` field of lm-eval's task files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

DATA_DIR = Path(__file__).parent / "data"


def load(subject: str, **_: Any) -> DatasetDict:
    """Return one subject's ``test`` and ``dev`` splits, read from next to this file.

    lm-eval passes the task's metadata along with its ``dataset_kwargs``; only the latter count.
    """
    # Read into memory: `datasets.load_dataset` takes paths from the working directory, and copies
    # what it reads into a cache.
    return DatasetDict(
        {
            split: Dataset.from_list(_rows(DATA_DIR / split / f"{subject}.jsonl"))
            for split in ("test", "dev")
        }
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the file's rows, one from each line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
