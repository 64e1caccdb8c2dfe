"""Which text."""

from dataclasses import dataclass
from enum import Enum

from layerprune.errors import UserError


class Calibration(Enum):
    """On what the distances are measured."""

    text = "text"
    questions = "questions"


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Which text the distances and the held-out loss are measured on."""

    files: list[str] | None = None
    """Text of the user's own: `.txt`, or `.jsonl` or `.parquet` with a field `text`, or with
    conversations as `messages`, which the model's chat template writes; the prose that ships with
    Python if nothing is given."""
    hub: str | None = None
    """A data set on the hub, or a folder of one; read as a stream."""
    config: str | None = None
    """Of the data set, where it has several."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    field: str = "text"
    """Of the data set's rows: text, or conversations."""
    healing_split: str = "train"
    """Of the data set: for healing."""
    heldout_split: str = "validation"
    """For distances, too; different documents, as long as they are not the same text."""
    sequence_length: int = 128
    """Tokens in each sequence."""
    calibration: Calibration = Calibration.text
    """`questions`: distances are measured on all questions of `eval.tasks`, each as lm-eval writes
    it, with its right answer; healing and the held-out loss have the text all the same."""
    calibration_sequences: int = 64
    """Sequences on which the distances are averaged."""
    heldout_sequences: int = 16
    """Sequences on which the loss is measured."""

    def __post_init__(self) -> None:
        if self.files is not None and self.hub is not None:
            raise UserError("data.files and data.hub exclude each other: give one.")
        if self.files is not None and not self.files:
            raise UserError("data.files is empty: add data.files=[FILE,...] to the command.")
        for key, value, least in (
            ("data.sequence_length", self.sequence_length, 2),
            ("data.calibration_sequences", self.calibration_sequences, 1),
            ("data.heldout_sequences", self.heldout_sequences, 1),
        ):
            if value < least:
                raise UserError(f"{key}={value}: it must be at least {least}.")
