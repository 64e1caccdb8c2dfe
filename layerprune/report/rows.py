"""Points as rows of `curves.csv`."""

import csv
import io
from collections.abc import Iterable, Iterator
from operator import attrgetter, itemgetter
from typing import NamedTuple

from layerprune.record.point import HELDOUT
from layerprune.report.entry import Entry


class Row(NamedTuple):
    """One number of one point; the fields are the file's columns, in order."""

    model: str
    family: str
    metric: str
    strategy: str
    heal: str
    seed: int
    task: str
    """A task, a group of tasks, or `HELDOUT`."""
    measure: str
    """lm-eval's name (acc, acc_norm, ...), or loss (nats per token), or loss_normalised."""
    fraction: float
    layers_dropped: int
    """How many."""
    first_layer: int | None
    """The lowest that is gone; None for the dense model."""
    value: float
    stderr: float | None
    num_samples: int
    """Questions, or sequences of held-out text."""


HEADER = Row._fields

_PLACE = HEADER.index("value")
"""Columns by which rows are put in order. None stands among them, for a first layer, and is
compared with no number: only where no layer is dropped."""


def make_rows(entries: Iterable[Entry]) -> list[Row]:
    """Every number of every point, curve by curve, in an order that depends on nothing else."""
    ordered = sorted(entries, key=attrgetter("key"))  # decides where rows differ in numbers only
    return sorted((row for entry in ordered for row in _rows(entry)), key=itemgetter(slice(_PLACE)))


def csv_text(rows: Iterable[Row]) -> str:
    """The rows as CSV with a header. Floats are written so that they read back the same."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")  # it writes floats with repr, None as nothing
    writer.writerow(HEADER)
    writer.writerows(rows)
    return out.getvalue()


def _rows(entry: Entry) -> Iterator[Row]:
    curve = (entry.model, entry.family, entry.metric, entry.strategy, entry.heal, entry.seed)
    plan = (entry.fraction, entry.num_dropped, entry.first_layer)
    for answers in entry.answers.values():
        for name, (value, stderr) in answers.measures.items():
            yield Row(*curve, answers.task, name, *plan, value, stderr, answers.num_samples)
    loss = entry.loss
    yield Row(*curve, HELDOUT, "loss", *plan, *loss.nats, loss.num_sequences)
    yield Row(*curve, HELDOUT, "loss_normalised", *plan, *loss.normalised, loss.num_sequences)
