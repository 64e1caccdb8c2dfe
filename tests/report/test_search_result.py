"""The choice of a search in the report: its steps, one layer more or less, subjects, samples."""

import csv
import json

import pytest
from studies import Maker

from layerprune.report import draw
from layerprune.report.tables.search_result import read_search
from layerprune.search.result import RESULT_FILE


def kept(share):
    return {"share": share, "interval": {"low": share - 0.03, "high": share + 0.03}}


def found():
    steps = [
        {"dropped": n, "unhealed": kept(1 - 0.2 * n), "healed": kept(0.94) if n == 2 else None,
         "likely": [None, 0.99, 0.9, 0.2][n], "memory_bytes": (10 - n) * 2**20,
         "speedup": 1 + 0.1 * n}
        for n in range(4)
    ]  # fmt: skip
    subjects = [
        {"task": "facts_physics", "num_questions": 20, "dense": 0.8, "chosen": 0.6,
         "interval": {"low": -0.35, "high": -0.05}},
    ]  # fmt: skip
    samples = [{"prompt": "<b>Once", "dense": "upon a time", "chosen": "upon upon"}]
    return {
        "dropped": [3, 4], "healed": True, "kept": kept(0.94), "between": [1, 2],
        "budget": {"keep": 0.9, "memory_bytes": 9 * 2**20, "speedup": None}, "timed": False,
        "steps": steps, "subjects": subjects, "samples": samples,
    }  # fmt: skip


def test_the_choice_is_explained_by_its_neighbours_and_subjects(tmp_path):
    assert read_search(tmp_path) is None
    (tmp_path / RESULT_FILE).write_text(json.dumps(found()))
    steps, subjects, samples = read_search(tmp_path).tables
    assert steps.rows[2] == ("2", "60.0 [57.0, 63.0]", "94.0 [91.0, 97.0]", "90 %", "8.0", "1.20",
                             "chosen")  # fmt: skip
    assert [row[-1] for row in steps.rows] == ["", "", "chosen", ""]
    assert "Chosen: 2 layers removed, healed. It keeps 94.0 [91.0, 97.0] %" in steps.note
    assert "of the dense margin over chance (fit.keep=0.9)." in steps.note
    assert "(3): -1.0 MiB, and meets the budget with 20 %." in steps.note
    assert "(1): +1.0 MiB, and meets the budget with 99 %." in steps.note
    assert subjects.rows == (("facts_physics", "20", "80.0", "60.0", "-20.0 [-35.0, -5.0]"),)
    assert samples.rows == (("<b>Once", "upon a time", "upon upon"),)


def test_the_page_shows_it_and_is_the_same_without(tmp_path):
    maker = Maker(tmp_path)
    maker.curve()
    draw(tmp_path)
    assert 'id="fit-0"' not in (tmp_path / "report.html").read_text()
    (tmp_path / RESULT_FILE).write_text(json.dumps(found()))
    report = draw(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert len(report.search_tables) == 3
    assert all(f'<a href="#fit-{at}">' in page for at in range(3))
    assert "&lt;b&gt;Once" in page
    assert "-20.0 [-35.0, -5.0]" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    ["{", "[]", "7", '{"dropped": []}', json.dumps({**found(), "steps": [1]}),
     json.dumps({**found(), "kept": {"share": "all"}})],
)  # fmt: skip
def test_what_a_search_left_half_or_another_wrote_is_named_and_left_out(tmp_path, text):
    maker = Maker(tmp_path)
    maker.curve()
    (tmp_path / RESULT_FILE).write_text(text)
    report = draw(tmp_path)
    assert report.search_tables == []
    assert len([line for line in report.skipped if line.startswith(f"{RESULT_FILE}: ")]) == 1
    assert 'id="fit-0"' not in (tmp_path / "report.html").read_text()


def test_the_frontier_has_every_cut_that_was_measured_and_the_budget(tmp_path):
    Maker(tmp_path).curve()
    (tmp_path / RESULT_FILE).write_text(json.dumps(found()))
    draw(tmp_path)
    with (tmp_path / "figures" / "frontier.csv").open() as file:
        rows = list(csv.DictReader(file))
    left, right = (
        [row for row in rows if row["panel"] == panel]
        for panel in ("weights (MiB)", "times fewer operations a token")
    )
    measured = [row for row in left if row["kind"] == "point"]
    assert [(float(row["value"]), round(float(row["kept"]), 2)) for row in measured] == [
        (10, 1), (9, 0.8), (8, 0.6), (8, 0.94), (7, 0.4),
    ]  # fmt: skip
    assert [row["what"] for row in measured if row["chosen"] == "True"] == ["healed"]
    assert [row["kept"] for row in left if row["kind"] == "keep"] == ["0.9"]
    assert [float(row["value"]) for row in left if row["kind"] == "bound"] == [9]
    assert [row for row in right if row["kind"] == "bound"] == []  # no speed was asked for
    assert 'id="frontier"' in (tmp_path / "report.html").read_text()


def test_without_a_share_to_keep_there_is_no_frontier(tmp_path):
    Maker(tmp_path).curve()
    content = found()
    content["budget"] = {"keep": None, "memory_bytes": 9 * 2**20, "speedup": None}
    (tmp_path / RESULT_FILE).write_text(json.dumps(content))
    draw(tmp_path)
    assert not (tmp_path / "figures" / "frontier.csv").exists()
    assert read_search(tmp_path).frontier == []


def test_a_measured_speed_is_called_one(tmp_path):
    (tmp_path / RESULT_FILE).write_text(json.dumps({**found(), "timed": True}))
    fit = read_search(tmp_path)
    assert "times the\nspeed" in fit.tables[0].columns
    assert {each["panel"] for each in fit.frontier} == {
        "weights (MiB)", "decoding: times as fast as the dense model",
    }  # fmt: skip
