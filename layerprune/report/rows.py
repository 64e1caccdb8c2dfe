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
    """Its name."""
    family: str
    """Of the model, by which curves are compared."""
    metric: str
    """By which distances were measured."""
    strategy: str
    """By which layers were chosen."""
    heal: str
    """The recipe, `none` without."""
    seed: int
    """Of what is drawn."""
    task: str
    """A task or a group of tasks by lm-eval's name, or `heldout`: text kept apart."""
    measure: str
    """lm-eval's name (acc, acc_norm, ...), or loss (nats a token), or loss_normalised (by ln V)."""
    fraction: float
    """Of the layers, that was dropped."""
    layers_dropped: int
    """How many."""
    first_layer: int | None
    """The lowest that is gone; empty for the dense model."""
    value: float
    """Of the measure; accuracies are shares of 1."""
    stderr: float | None
    """Its standard error; empty where lm-eval gives none."""
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
