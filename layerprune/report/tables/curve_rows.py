"""Points as rows of `curves.csv` and `curves.parquet`."""

from collections.abc import Iterable, Iterator
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import NamedTuple

from layerprune.record.point import HELDOUT, Point


class Row(NamedTuple):
    """One number of one point; the fields are the file's columns, in order."""

    model: str
    """The model's name."""
    family: str
    """The model's family, by which curves are compared."""
    metric: str
    """The metric of layer similarity."""
    strategy: str
    """The strategy that chose the layers."""
    heal: str
    """The healing recipe, `none` without healing."""
    seed: int
    """The seed of all random draws."""
    task: str
    """lm-eval's name of a task or group, or `heldout` for held-out text."""
    measure: str
    """lm-eval's name (acc, ...), `loss` (nats per token) or `loss_normalised` (loss / ln V)."""
    fraction: float
    """The fraction of layers removed."""
    layers_dropped: int
    """The number of layers removed."""
    first_layer: int | None
    """The lowest layer removed; empty for the dense model."""
    value: float
    """The value; accuracies are between 0 and 1."""
    stderr: float | None
    """Its standard error; empty where lm-eval gives none."""
    num_samples: int
    """The number of questions, or of held-out sequences."""


HEADER = Row._fields

_PLACE = HEADER.index("value")
"""Number of columns by which rows are ordered. None, among them for a first layer, is compared with
no number: it stands where no layer is removed."""


def make_rows(points: Iterable[Point]) -> list[Row]:
    """Return every number of every point, in an order that depends on these alone."""
    ordered = sorted(points, key=attrgetter("key"))  # decides where rows differ in numbers only
    return sorted((row for point in ordered for row in _rows(point)), key=itemgetter(slice(_PLACE)))


def write_parquet(rows: Iterable[Row], path: Path) -> None:
    """Write rows as Parquet: the columns of the CSV, each with its type."""
    import pyarrow as pa
    from pyarrow import parquet

    types = {str: pa.string(), int: pa.int64(), int | None: pa.int64()}
    columns = Row.__annotations__.items()
    schema = pa.schema([(name, types.get(kind, pa.float64())) for name, kind in columns])
    parquet.write_table(pa.table(list(zip(*rows, strict=True)), schema=schema), path)


def _rows(point: Point) -> Iterator[Row]:
    model, plan = point.model, point.plan
    curve = (model.name, model.family, plan.metric, plan.strategy, point.recipe, point.seed)
    cut = (plan.fraction, point.num_dropped, point.first_layer)
    results = [(score.task, score.measures, score.num_samples) for score in point.scores]
    results.append((HELDOUT, point.loss.measures, point.loss.num_sequences))
    for task, measures, num_samples in results:
        for name, measure in measures.items():
            yield Row(*curve, task, name, *cut, measure.value, measure.stderr, num_samples)
