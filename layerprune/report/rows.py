"""Points as rows of `curves.csv`."""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from layerprune.record.point import HELDOUT
from layerprune.report.entry import Entry, Value


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


def make_rows(entries: Iterable[Entry]) -> list[Row]:
    """Every number of every point, curve by curve, in an order that depends on nothing else."""
    return sorted((row for entry in entries for row in _rows(entry)), key=_order)


def csv_text(rows: Iterable[Row]) -> str:
    """The rows as CSV with a header. Floats are written so that they read back the same."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")  # it writes floats with repr, None as nothing
    writer.writerow(HEADER)
    writer.writerows(rows)
    return out.getvalue()


def _rows(entry: Entry) -> Iterator[Row]:
    def row(task: str, measure: str, value: Value, num_samples: int) -> Row:
        return Row(
            model=entry.model,
            family=entry.family,
            metric=entry.metric,
            strategy=entry.strategy,
            heal=entry.heal,
            seed=entry.seed,
            task=task,
            measure=measure,
            fraction=entry.fraction,
            layers_dropped=entry.num_dropped,
            first_layer=entry.first_layer,
            value=value.value,
            stderr=value.stderr,
            num_samples=num_samples,
        )

    for answers in entry.answers.values():
        for name, value in answers.measures.items():
            yield row(answers.task, name, value, answers.num_samples)
    loss = entry.loss
    yield row(HELDOUT, "loss", loss.nats, loss.num_sequences)
    yield row(HELDOUT, "loss_normalised", loss.normalised, loss.num_sequences)


def _order(row: Row) -> tuple[object, ...]:
    # None does not compare with numbers.
    return tuple(-1 if value is None else value for value in row)
