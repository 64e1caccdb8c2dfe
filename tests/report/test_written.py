"""Answers that are written, not chosen: lm-eval calls their accuracy exact_match."""

import json

import pytest

from layerprune.record.point import Point
from layerprune.report import draw
from layerprune.report.curves import make_curves, make_tasks
from layerprune.report.entry import read_entry
from layerprune.report.falls import make_falls
from layerprune.report.marks import marks_of
from layerprune.report.series import accuracy_data, points


def test_they_are_drawn_fall_and_nobody_guesses_them(maker):
    more = {"tasks": ("written",), "subjects": (), "chance": None, "measure": "exact_match"}
    maker.curve(counts=(0, 1, 2, 3, 4, 5), questions=200, **more)
    curves = make_curves(map(read_entry, maker.made))
    tasks = make_tasks(curves)
    assert [(task.name, task.measure, task.chances) for task in tasks] == [
        ("written", "exact_match", ())
    ]
    data = accuracy_data(curves, "written")
    assert [row["value"] for row in points(data)] == [
        point.scores[0]["measures"]["exact_match"]["value"] for point in maker.made
    ]
    assert {row["kind"] for row in data} == {"point", "dense"}
    (fallen,) = make_falls(curves, tasks)
    assert fallen.chance == 0.0
    assert fallen.fall is not None
    assert fallen.fall.critical.interval is not None
    html = (draw(maker.study).study / "report.html").read_text()
    assert "exact_match on 200 questions" in html
    assert "guessing evenly" not in html.partition("<nav")[0]


def test_of_several_filters_the_first_counts(maker):
    point = maker.point(measure="exact_match.strict-match", write=False)
    score = point.scores[0]
    score["measures"] = {**score["measures"], "exact_match.flexible": {"value": 1, "stderr": None}}
    answers = read_entry(point).answers["facts"]
    assert answers.measure == "exact_match.strict-match"
    score["measures"]["acc"] = {"value": 0.5, "stderr": None}
    assert read_entry(point).answers["facts"].accuracy.value == 0.5


def test_the_filter_whose_answers_are_kept_counts_whatever_its_name(maker):
    """Records are JSON with sorted names: `flexible-extract` comes before `strict-match` there."""
    point = maker.point(measure="exact_match.strict-match", write=False)
    for score in point.scores:
        score["measures"]["exact_match.flexible-extract"] = {"value": 1, "stderr": None}
    older = read_entry(Point.from_json(json.loads(json.dumps(point.to_json(), sort_keys=True))))
    of_tasks = [each.measure for each in older.answers.values() if each.correct is not None]
    assert of_tasks == ["exact_match.strict-match"] * len(of_tasks)
    for score in point.scores:
        score["accuracy"] = "exact_match.strict-match"
    entry = read_entry(Point.from_json(json.loads(json.dumps(point.to_json(), sort_keys=True))))
    for task, answers in entry.answers.items():
        assert answers.measure == "exact_match.strict-match"
        assert marks_of(entry, task) is not None
    point.scores[0]["accuracy"] = "acc"
    with pytest.raises(ValueError, match="'acc' is none of its measures"):
        read_entry(point)
