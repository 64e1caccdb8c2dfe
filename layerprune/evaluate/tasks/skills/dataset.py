"""The rows of the skills tasks, for the ``custom_dataset`` field of lm-eval's task files."""

from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, DatasetDict

DATA = Path(__file__).parent / "data"


def load(subject: str, **_: Any) -> DatasetDict:
    """Return one skill's ``test`` and ``dev`` splits."""
    files = {split: DATA / split / f"{subject}.jsonl" for split in ("test", "dev")}
    return DatasetDict(
        {
            split: Dataset.from_list(pd.read_json(file, lines=True, dtype=False).to_dict("records"))
            for split, file in files.items()
        }
    )
