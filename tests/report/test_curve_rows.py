import csv
import io

import pytest

from layerprune.record.point import HELDOUT, layer_ranges
from layerprune.report.tables.curve_rows import HEADER, make_rows
from layerprune.report.tables.text_table import to_csv

pytestmark = pytest.mark.quick

CONTRACT = (
    "model,family,metric,strategy,heal,seed,task,measure,fraction,layers_dropped,first_layer,"
    "value,stderr,num_samples"
)


@pytest.fixture
def points(maker):
    maker.curve("deepest", counts=(0, 1, 3), write=False)
    maker.point([2, 3, 6], seed=7, heal="lora", write=False)
    return maker.made


def expected(point):
    """The numbers of a record, by task and measure."""
    numbers = {
        (score.task, name): (measure.value, measure.stderr, score.num_samples)
        for score in point.scores
        for name, measure in score.measures.items()
    }
    loss = point.loss
    numbers[HELDOUT, "loss"] = loss.nats, loss.stderr, 16
    scaled = pytest.approx(loss.stderr / (loss.nats / loss.normalised), rel=1e-12)
    numbers[HELDOUT, "loss_normalised"] = loss.normalised, scaled, 16
    return numbers


def test_rows_hold_every_number_of_every_record(points):
    rows = make_rows(points)
    assert len(rows) == len(points) * 8
    for point in points:
        mine = [
            row
            for row in rows
            if (row.strategy, row.layers_dropped) == (point.plan.strategy, point.num_dropped)
        ]
        found = {(row.task, row.measure): (row.value, row.stderr, row.num_samples) for row in mine}
        assert found == expected(point)
        for row in mine:
            assert row.fraction == point.plan.fraction
            assert row.first_layer == min(point.plan.dropped, default=None)
            assert (row.model, row.family, row.metric) == ("tiny", "llama", "angular")
            assert (row.seed, row.heal) == (
                point.identity["seed"],
                point.identity["heal"]["recipe"],
            )


def test_the_file_reads_back_as_it_was(points):
    rows = make_rows(points)
    text = to_csv(rows, HEADER)
    assert text.splitlines()[0] == CONTRACT == ",".join(HEADER)
    read = list(csv.DictReader(io.StringIO(text)))
    assert len(read) == len(rows)
    for line, row in zip(read, rows, strict=True):
        assert float(line["value"]) == row.value
        assert float(line["fraction"]) == row.fraction
        assert line["stderr"] == ("" if row.stderr is None else repr(row.stderr))
        assert line["first_layer"] == ("" if row.first_layer is None else str(row.first_layer))
        assert int(line["layers_dropped"]) == row.layers_dropped
        assert int(line["num_samples"]) == row.num_samples


def test_the_order_does_not_depend_on_that_of_the_records(points):
    entries = list(points)
    assert make_rows(entries) == make_rows(reversed(entries))


def test_names_with_commas_and_quotes_read_back(maker):
    name = 'a "tiny", model\nof two lines'
    rows = make_rows([maker.point(model=name, write=False)])
    text = to_csv(rows, HEADER)
    assert {line["model"] for line in csv.DictReader(io.StringIO(text))} == {name}


@pytest.mark.parametrize(
    ("layers", "said"),
    [((), "–"), ((4,), "4"), ((4, 5), "4-5"), ((9, 3, 4, 5, 11), "3-5, 9, 11")],  # noqa: RUF001
)
def test_layer_ranges(layers, said):
    assert layer_ranges(layers) == said
