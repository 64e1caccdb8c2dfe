"""Answers that are written, not chosen: lm-eval calls their accuracy exact_match."""

from layerprune.report import draw
from layerprune.report.curves import make_curves, make_tasks
from layerprune.report.entry import read_entry
from layerprune.report.falls import make_falls
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
