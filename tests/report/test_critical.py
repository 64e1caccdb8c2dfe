"""Critical fractions of whole studies: in which curves they are told, and as which tables."""

import csv
import io
import math

import pytest
from pyarrow import parquet
from rich.console import Console

from layerprune.report import draw, read
from layerprune.report.critical import fitted, make_critical
from layerprune.report.curves import make_curves, make_tasks
from layerprune.report.entry import read_entry
from layerprune.report.falls import make_falls
from layerprune.report.marks import marks_of
from layerprune.report.publish import (
    CRITICAL_HEADER,
    critical_csv,
    critical_latex,
    critical_markdown,
)
from layerprune.report.texts import show_table


def falls_of(maker):
    curves = make_curves(read_entry(point) for point in maker.made)
    return make_falls(curves, make_tasks(curves))


def table_of(maker):
    curves = make_curves(read_entry(point) for point in maker.made)
    return make_critical(curves, make_tasks(curves))


def test_a_groups_answers_are_those_of_its_tasks(maker):
    point = maker.point()
    entry = read_entry(point)
    assert marks_of(entry, "facts").size == 40
    assert marks_of(entry, "facts").mean() == pytest.approx(
        point.scores[0]["measures"]["acc"]["value"]
    )
    # Of a group in which every task counts alike, the mean of its questions is not the accuracy.
    point.scores[0]["measures"]["acc"]["value"] -= 0.01
    assert marks_of(read_entry(point), "facts") is None
    del point.scores[2]
    assert marks_of(read_entry(point), "facts") is None


@pytest.mark.parametrize("digits", ["0101", "2" * 20, "", 7])
def test_answers_that_are_no_digits_or_too_few_are_refused(maker, digits):
    point = maker.point()
    point.scores[1]["correct"] = digits
    with pytest.raises(ValueError, match="not that of a point"):
        read_entry(point)


def test_a_record_from_before_they_were_kept_has_no_majority_and_no_answers(maker):
    point = maker.point()
    for score in point.scores:
        del score["majority"], score["correct"]
    answers = read_entry(point).answers["facts_capitals"]
    assert (answers.majority, answers.correct) == (None, None)


def test_each_curve_has_its_fall(maker):
    maker.curve("block", range(7), questions=100, limit=None)
    maker.curve("deepest", range(7), questions=100, limit=None)
    slow, fast = falls_of(maker)
    assert (slow.name, fast.name) == ("block", "deepest")
    assert slow.task == "facts"
    assert slow.num_questions == 200
    assert slow.num_points == 7
    assert slow.dense.interval.low < slow.dense.value < slow.dense.interval.high
    assert fast.fall.critical.value < slow.fall.critical.value
    # Half of the margin of exp(-3 x), a little lower for the second subject.
    assert fast.fall.critical.value == pytest.approx(0.2, abs=0.04)
    interval = fast.fall.critical.interval
    assert interval.low < fast.fall.critical.value < interval.high
    assert [left is None for left in fast.fall.retained] == [False] * 5


def test_without_single_answers_there_are_estimates_without_intervals(maker):
    for count in range(5):
        point = maker.point(range(count), strategy="deepest")
        for score in point.scores:
            score["correct"] = None
    (fallen,) = falls_of(maker)
    assert 0 < fallen.fall.critical.value < 1
    assert fallen.fall.critical.interval is None
    assert "lack single answers" in table_of(maker).note


def test_seeds_are_one_curve_at_the_points_that_all_of_them_have(maker):
    for seed, counts in ((0, range(7)), (1, range(6)), (2, range(6))):
        maker.curve("random", counts, seed=seed, questions=50, limit=None)
    maker.curve("block", range(4), questions=50, limit=None)
    fallen = {each.name: each for each in falls_of(maker)}
    assert set(fallen) == {"block", "random"}
    assert (fallen["random"].num_seeds, fallen["random"].num_points) == (3, 6)
    assert fallen["random"].farthest == 5 / 8
    assert fallen["random"].fall.critical.interval is not None
    assert "random: the mean of 3 seeds, too few for a full interval." in table_of(maker).note


@pytest.mark.parametrize(
    ("why", "more"),
    [
        ("no dense model", {"counts": (2, 4, 6)}),
        ("not above chance", {"chance": 0.7}),
        ("not defined", {"chance": None}),
        ("2 points", {"counts": (0, 4)}),
        ("named one by one", {"strategy": "given"}),
    ],
)
def test_it_says_why_nothing_can_be_told(maker, why, more):
    settings = {"strategy": "block", "counts": range(6), **more}
    maker.curve(**settings)
    (fallen,) = falls_of(maker)
    assert fallen.fall is None
    assert why in fallen.why
    (row,) = csv.DictReader(io.StringIO(critical_csv([fallen])))
    assert row["critical"] == ""
    assert why in row["why"]
    if fallen.num_points > 2:
        assert why in table_of(maker).note


def test_a_curve_that_keeps_more_than_half_is_beyond_its_last_point(maker):
    maker.curve("block", range(4), questions=200, limit=None)
    (fallen,) = falls_of(maker)
    assert fallen.fall.critical.value == math.inf
    (row,) = csv.DictReader(io.StringIO(critical_csv([fallen])))
    assert row["critical"] == "inf"
    table = table_of(maker)
    assert table.rows[0][3].startswith(">37.5")
    assert ">: beyond the last point." in table.note


def test_nothing_is_said_of_a_study_without_curves(maker):
    maker.point()
    assert table_of(maker) is None
    assert draw(maker.study).critical is None
    assert (maker.study / "critical.csv").read_text().splitlines() == [",".join(CRITICAL_HEADER)]


def test_the_table_fits_a_terminal(maker):
    maker.curve("block", range(7), model="a-model-with-a-very-long-name-7B-Instruct-v0.3")
    maker.curve("deepest", range(7), model="a-model-with-a-very-long-name-7B-Instruct-v0.4")
    table = table_of(maker)
    assert table.width > 100
    out = io.StringIO()
    show_table(Console(file=out, width=100), fitted(table, 100))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in out.getvalue()
    assert "guessing evenly 25.0%" in " ".join(lines)


def test_the_tables_to_go_hold_the_same_numbers(maker):
    maker.curve("block", range(7), model="a_b&c|50%", questions=100, limit=None)
    report = draw(maker.study)
    (fallen,) = report.critical.falls
    with (maker.study / "critical.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["model"] == "a_b&c|50%"
    assert float(row["critical"]) == fallen.fall.critical.value
    assert float(row["critical_high"]) == fallen.fall.critical.interval.high
    assert float(row["left_20_low"]) == fallen.fall.retained[1].interval.low
    assert row["majority"] == ""
    shown = f"{100 * fallen.fall.critical.value:.1f} ["
    markdown = (maker.study / "critical.md").read_text()
    head, rule, line = markdown.splitlines()[:3]
    assert r"a\_b&c\|50%" in line
    assert head.count("|") == rule.count("|") == line.replace(r"\|", "").count("|")
    assert shown.replace("[", r"\[") in line
    latex = (maker.study / "critical.tex").read_text()
    (line,) = [line for line in latex.splitlines() if "50" in line and line.startswith("a")]
    assert line.startswith(
        r"a\_b\&c\textbar{}50\% & block & angular & none & 1 & facts & 200 & 7 &"
    )
    assert line.replace(r"\&", "").count("&") == 17
    assert shown in line
    assert latex == critical_latex([fallen])
    assert markdown == critical_markdown([fallen])


def test_parquet_holds_the_rows_of_the_csv(drawn):
    table = parquet.read_table(drawn.study / "curves.parquet")
    rows = read([drawn.study]).rows
    assert table.num_rows == len(rows)
    assert table.column_names == list(csv.reader((drawn.study / "curves.csv").open()).__next__())
    assert table.column("value").to_pylist() == [row.value for row in rows]
    assert table.column("first_layer").to_pylist() == [row.first_layer for row in rows]
    assert str(table.schema.field("num_samples").type) == "int64"
