import pytest
from studies import Maker

from layerprune.analysis.curves import make_curves
from layerprune.record.validation import ForeignRecord
from layerprune.report import draw, read
from layerprune.report.figures.cost_figures import (
    BY_LAYERS,
    BY_OPERATIONS,
    DECODE,
    MEASURED,
    PREFILL,
    WEIGHTS,
    speed_data,
)
from layerprune.report.tables.speed_table import make_speed_table
from layerprune.report.terminal import show


def curves_of(maker: Maker):
    return make_curves(maker.made)


def test_what_is_drawn_is_what_was_measured_beside_what_could_be(maker):
    maker.curve(counts=(0, 2, 4), speed=True, write=False)
    data = speed_data(curves_of(maker))
    found = {(row["panel"], row["layers_dropped"], row["what"]): row for row in data}
    assert len(found) == len(data) == 3 * (3 + 3 + 1 + 1)
    for point in maker.made:
        count = point.num_dropped
        measured = found[PREFILL, count, MEASURED]
        assert measured["value"] == point.speed.prefill_ratio.median
        assert (measured["low"], measured["high"]) == (
            point.speed.prefill_ratio.low, point.speed.prefill_ratio.high
        )  # fmt: skip
        assert found[PREFILL, count, BY_LAYERS]["value"] == 8 / (8 - count)
        assert found[PREFILL, count, BY_OPERATIONS]["value"] == pytest.approx(
            1 / (0.1 + 0.9 * (8 - count) / 8)
        )
        assert found[DECODE, count, BY_OPERATIONS]["value"] == pytest.approx(
            1 / (0.3 + 0.7 * (8 - count) / 8)
        )
        gib = found[WEIGHTS, count, MEASURED]["value"]
        assert gib * 2**30 == point.speed.pruned.weight_bytes


def test_the_table_says_what_it_was_measured_with(maker):
    maker.curve(counts=(0, 4), speed=True, write=False)
    maker.curve("deepest", counts=(0, 4), write=False)
    table = make_speed_table(curves_of(maker))
    assert table.num_names == 0
    cells = dict(zip(table.columns, table.rows[1], strict=True))
    assert (cells["fraction"], cells["n"], cells["by\nlayers"]) == ("50.0%", "4", "2.00")
    assert table.columns.count("by op-\nerations") == 2
    assert "1.60 (1.44-1.92)" in table.rows[1]
    assert cells["decode\ntok/s"] == "48.0"
    assert "2 prompts at once, each of 64 tokens, 16 written after it, medians of 5" in table.note
    assert make_speed_table(curves_of(maker)[1:]) is None


def test_a_narrow_terminal_has_medians_alone_and_all_columns(maker):
    maker.curve(counts=(0, 4), speed=True, write=False)
    wide = make_speed_table(curves_of(maker))
    narrow = make_speed_table(curves_of(maker), 100)
    assert narrow.width <= 100 < wide.width
    assert narrow.columns == wide.columns
    assert "1.60" in narrow.rows[1]


def test_a_narrow_terminal_has_room_for_the_names_of_several_curves(maker, capsys):
    for strategy in ("block", "deepest"):
        maker.curve(strategy, counts=(0, 4), model="a-model-of-7B", heal="none", speed=True)
    maker.curve("block", counts=(4,), heal="lora", model="a-model-of-7B", speed=True)
    show(read([maker.study]))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    table = lines[lines.index(next(line for line in lines if line.startswith("Speed"))) :]
    assert [line for line in table if line.startswith(" block · lora")]


def test_speed_is_on_the_page_once_with_its_table(maker):
    maker.curve(counts=(0, 4), speed=True)
    report = draw(maker.study)
    html = (maker.study / "report.html").read_text()
    assert html.count('<section id="speed">') == 1
    assert "Speed of each pruned model and the dense one" in html
    assert maker.study / "figures" / "speed.svg" in report.written


@pytest.mark.parametrize("broken", [0, -1.0, None, "fast"])
def test_a_speed_that_is_none_is_no_point(maker, broken):
    maker.point(speed=True, write=False)
    with (
        pytest.raises(ForeignRecord, match=r"speed\.dense\.decode\.low"),
        maker.editing() as content,
    ):
        content["speed"]["dense"]["decode"]["low"] = broken
