"""Critical fractions of complete studies: which curves have one, and in which tables."""

import csv
import io
import math

import pytest
from pyarrow import parquet
from rich.console import Console

from layerprune.analysis.correctness import correctness
from layerprune.analysis.critical import curve_declines
from layerprune.analysis.curves import make_curves, make_tasks
from layerprune.analysis.statistics import Estimate, Interval
from layerprune.record.validation import ForeignRecord
from layerprune.report import draw, read
from layerprune.report.tables.critical import (
    critical_csv,
    critical_declines,
    critical_latex,
    critical_markdown,
    critical_table,
    estimated,
)
from layerprune.report.terminal import print_table


def declines_of(maker):
    curves = make_curves(maker.made)
    return curve_declines(curves, make_tasks(curves))


def table_of(maker, width=None):
    curves = make_curves(maker.made)
    return critical_table(critical_declines(curves, make_tasks(curves)), width)


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (0.241, 0.22, 0.263, "24.1 [22.0, 26.3]"),
        (math.inf, 0.417, math.inf, ">50.0 [41.7, ...]"),
        (None, 0.0, 0.067, "<6.7"),
        (None, 0.0, math.inf, "unresolved"),
    ],
)
def test_a_fraction_is_printed_as_far_as_it_is_resolved(value, low, high, words):
    assert estimated(Estimate(value, Interval(low, high)), farthest=0.5) == words


def test_a_groups_answers_are_those_of_its_tasks(maker):
    point = maker.point()
    assert correctness(point, "facts").size == 40
    assert correctness(point, "facts").mean() == pytest.approx(
        point.scores[0].measures["acc"].value
    )
    # Of a group in which every task counts alike, the mean of its questions is not the accuracy.
    with maker.editing() as content:
        content["scores"][0]["measures"]["acc"]["value"] -= 0.01
    assert correctness(maker.made[0], "facts") is None
    with maker.editing() as content:
        del content["scores"][2]
    assert correctness(maker.made[0], "facts") is None


@pytest.mark.parametrize("digits", ["0101", "2" * 20, "", 7])
def test_answers_that_are_no_digits_or_too_few_are_refused(maker, digits):
    maker.point()
    with pytest.raises(ForeignRecord, match="correct"), maker.editing() as content:
        content["scores"][1]["correct"] = digits


def test_each_curve_has_its_fall(maker):
    maker.curve("block", range(7), questions=100, limit=None)
    maker.curve("deepest", range(7), questions=100, limit=None)
    slow, fast = declines_of(maker)
    assert (slow.name, fast.name) == ("block", "deepest")
    assert slow.task == "facts"
    assert slow.num_questions == 200
    assert slow.num_points == 7
    assert slow.dense.interval.low < slow.dense.value < slow.dense.interval.high
    assert fast.decline.critical.value < slow.decline.critical.value
    # Half of the margin of exp(-3 x), a little lower for the second subject.
    assert fast.decline.critical.value == pytest.approx(0.2, abs=0.04)
    interval = fast.decline.critical.interval
    assert interval.low < fast.decline.critical.value < interval.high
    assert [left is None for left in fast.decline.retained] == [False] * 5


def test_without_single_answers_there_are_estimates_without_intervals(maker):
    for count in range(5):
        maker.point(range(count), strategy="deepest")
        with maker.editing() as content:
            for score in content["scores"]:
                score["correct"] = None
    (curve_decline,) = declines_of(maker)
    assert 0 < curve_decline.decline.critical.value < 1
    assert curve_decline.decline.critical.interval is None
    assert "lack single answers" in table_of(maker).note


def test_seeds_are_one_curve_at_the_points_that_all_of_them_have(maker):
    for seed, counts in ((0, range(7)), (1, range(6)), (2, range(6))):
        maker.curve("random", counts, seed=seed, questions=50, limit=None)
    maker.curve("block", range(4), questions=50, limit=None)
    curve_decline = {each.name: each for each in declines_of(maker)}
    assert set(curve_decline) == {"block", "random"}
    assert (curve_decline["random"].num_seeds, curve_decline["random"].num_points) == (3, 6)
    assert curve_decline["random"].farthest == 5 / 8
    assert curve_decline["random"].decline.critical.interval is not None
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
    (curve_decline,) = declines_of(maker)
    assert curve_decline.decline is None
    assert why in curve_decline.why
    (row,) = csv.DictReader(io.StringIO(critical_csv([curve_decline])))
    assert row["critical"] == ""
    assert why in row["why"]
    if curve_decline.num_points > 2:
        assert why in table_of(maker).note


def test_a_curve_that_keeps_more_than_half_is_beyond_its_last_point(maker):
    maker.curve("block", range(4), questions=200, limit=None)
    (curve_decline,) = declines_of(maker)
    assert curve_decline.decline.critical.value == math.inf
    (row,) = csv.DictReader(io.StringIO(critical_csv([curve_decline])))
    assert row["critical"] == "inf"
    table = table_of(maker)
    assert table.rows[0][3].startswith(">37.5")
    assert ">: beyond the last point." in table.note


def test_a_fall_between_two_points_is_bounded_by_them(maker):
    maker.curve("deepest", (0, 1, 6), questions=200, limit=None)
    (curve_decline,) = declines_of(maker)
    critical = curve_decline.decline.critical
    assert (critical.interval.low, critical.interval.high) == (1 / 8, 6 / 8)
    assert curve_decline.decline.sharpness.value is None
    (row,) = csv.DictReader(io.StringIO(critical_csv([curve_decline])))
    assert row["sharpness"] == ""
    high = float(row["sharpness_high"])
    assert table_of(maker).rows[0][4] == f"<{100 * high:.1f}"
    assert f"| <{100 * high:.1f} |" in critical_markdown([curve_decline]).replace("\\", "")


def test_a_dip_is_named(maker):
    maker.curve("block", range(6), subjects=(), questions=200, limit=None)
    assert declines_of(maker)[0].dips == ()
    with maker.editing(2) as content:
        (score,) = content["scores"]
        score["correct"] = "1" * 40 + "0" * 160
        score["measures"]["acc"]["value"] = 0.2
    (curve_decline,) = declines_of(maker)
    assert curve_decline.dips == (2,)
    assert "block on facts dips: with n = 2 layers removed" in table_of(maker).note
    (row,) = csv.DictReader(io.StringIO(critical_csv([curve_decline])))
    assert row["dips"] == "2"


def test_nothing_is_said_of_a_study_without_curves(maker):
    maker.point()
    assert table_of(maker) is None
    assert draw(maker.study).critical == []
    (header,) = (maker.study / "critical.csv").read_text().splitlines()
    assert header.startswith("model,strategy,metric,heal,seeds,curve,task,questions,points,")
    assert header.endswith("left_50,left_50_low,left_50_high,dips,why")


def test_the_table_fits_a_terminal(maker):
    maker.curve("block", range(7), model="a-model-with-a-very-long-name-7B-Instruct-v0.3")
    maker.curve("deepest", range(7), model="a-model-with-a-very-long-name-7B-Instruct-v0.4")
    table = table_of(maker)
    assert table.width > 100
    out = io.StringIO()
    print_table(Console(file=out, width=100), table_of(maker, 100))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in out.getvalue()
    assert "chance 25.0%" in " ".join(lines)


def test_the_tables_to_go_hold_the_same_numbers(maker):
    maker.curve("block", range(7), model="a_b&c|50%", questions=100, limit=None)
    report = draw(maker.study)
    (curve_decline,) = report.critical
    with (maker.study / "critical.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["model"] == "a_b&c|50%"
    assert float(row["critical"]) == curve_decline.decline.critical.value
    assert float(row["critical_high"]) == curve_decline.decline.critical.interval.high
    assert float(row["left_20_low"]) == curve_decline.decline.retained[1].interval.low
    assert row["majority"] == ""
    shown = f"{100 * curve_decline.decline.critical.value:.1f} ["
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
    assert latex == critical_latex([curve_decline])
    assert markdown == critical_markdown([curve_decline])


def test_parquet_holds_the_rows_of_the_csv(drawn):
    table = parquet.read_table(drawn.study / "curves.parquet")
    rows = read([drawn.study]).rows
    assert table.num_rows == len(rows)
    assert table.column_names == list(csv.reader((drawn.study / "curves.csv").open()).__next__())
    assert table.column("value").to_pylist() == [row.value for row in rows]
    assert table.column("first_layer").to_pylist() == [row.first_layer for row in rows]
    assert str(table.schema.field("num_samples").type) == "int64"
