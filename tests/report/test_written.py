"""Answers that are written, not chosen: lm-eval calls their accuracy exact_match."""

import json

import pytest

from layerprune.analysis.correctness import correctness
from layerprune.analysis.critical import curve_declines
from layerprune.analysis.curves import make_curves, make_tasks
from layerprune.record.point import Point
from layerprune.record.validation import ForeignRecord
from layerprune.report import draw
from layerprune.report.figures.curve_data import accuracy_data, point_rows


def test_they_are_drawn_fall_and_nobody_guesses_them(maker):
    more = {"tasks": ("written",), "subjects": (), "chance": None, "measure": "exact_match"}
    maker.curve(counts=(0, 1, 2, 3, 4, 5), questions=200, **more)
    curves = make_curves(maker.made)
    tasks = make_tasks(curves)
    assert [(task.name, task.measure, task.chances) for task in tasks] == [
        ("written", "exact_match", ())
    ]
    data = accuracy_data(curves, "written")
    assert [row["value"] for row in point_rows(data)] == [
        point.scores[0].measures["exact_match"].value for point in maker.made
    ]
    assert {row["kind"] for row in data} == {"point", "dense"}
    (row,) = curve_declines(curves, tasks)
    assert row.chance == 0.0
    assert row.decline is not None
    assert row.decline.critical.interval is not None
    html = (draw(maker.study).study / "report.html").read_text()
    assert "exact_match on 200 questions" in html
    assert "chance is" not in html.partition("<nav")[0]


def test_the_accuracy_is_the_measure_that_the_record_names(maker):
    """Records are JSON with sorted names: `flexible-extract` comes before `strict-match` there."""
    maker.point(measure="exact_match.strict-match", write=False)
    with maker.editing() as content:
        for score in content["scores"]:
            score["measures"]["exact_match.flexible-extract"] = {"value": 1, "stderr": None}
    content = json.loads(json.dumps(maker.made[0].to_json(), sort_keys=True))
    point = Point.from_json(content)
    for task, score in point.task_scores.items():
        assert score.accuracy == "exact_match.strict-match"
        assert score.correct_share == score.measures["exact_match.strict-match"]
        assert correctness(point, task) is not None
    content["scores"][0]["accuracy"] = "acc"
    with pytest.raises(ForeignRecord, match="'acc' is none of its measures"):
        Point.from_json(content)
