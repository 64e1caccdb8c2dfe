"""Two studies point by point, and what is called a difference."""

import re

from studies import Maker

from layerprune.report.__main__ import main
from layerprune.report.compare import compare_studies
from layerprune.report.entry import read_entry


def compared(first, second):
    entries = ([read_entry(point) for point in maker.made] for maker in (first, second))
    return compare_studies(("old", "new"), *entries)


def makers(tmp_path):
    return Maker(tmp_path / "old"), Maker(tmp_path / "new")


def redone(point, task, right):
    """A point's task with other answers, the first `right` of them right."""
    for score in point.scores:
        if score["task"] == task:
            total = score["num_samples"]
            score["correct"] = "1" * right + "0" * (total - right)
            score["measures"]["acc"]["value"] = right / total


def test_a_study_is_like_itself(tmp_path):
    first, second = makers(tmp_path)
    for maker in (first, second):
        maker.curve("block", (0, 2, 4))
    found = compared(first, second)
    assert found.num_both == 3
    assert found.alone == ((), ())
    assert [change.p for change in found.changes] == [1.0] * 3
    assert found.verdict == (
        "Every question has the same outcome at the 3 points that both have; "
        "losses differ by 0.0000 nats at most."
    )


def test_a_real_difference_is_told_from_noise(tmp_path):
    first, second = makers(tmp_path)
    for maker in (first, second):
        for count in (0, 1, 2, 3):
            point = maker.point(range(count), subjects=(), questions=400, limit=None)
            redone(point, "facts", 300)
    redone(second.made[1], "facts", 303)  # three won, none lost: p = 0.25
    redone(second.made[2], "facts", 200)
    second.made[2].loss["nats"] += 0.5
    found = compared(first, second)
    assert [change.beyond_noise for change in found.changes] == [False, False, True, False]
    change = found.changes[2]
    assert (change.compared.only_first, change.compared.only_second) == (100, 0)
    assert change.difference == -0.25
    assert change.loss == 0.5
    assert change.compared.interval.low < -0.25 < change.compared.interval.high < 0
    assert "1 of 4 accuracies at the 4 points that both have differ beyond noise" in found.verdict
    assert "new is better in 0 and worse in 1" in found.verdict
    assert "-25.0 points" in found.verdict
    assert "0.5000 nats" in found.verdict


def test_losses_are_told_of_points_without_questions(tmp_path):
    first, second = makers(tmp_path)
    for maker in (first, second):
        maker.curve("block", (0, 2, 4))
        for point in maker.made:
            point.scores.clear()
    second.made[1].loss["nats"] += 0.25
    found = compared(first, second)
    assert found.losses == (0.0, 0.25, 0.0)
    assert "losses differ by 0.2500 nats at most" in found.verdict


def test_points_of_one_study_only_are_named(tmp_path, capsys):
    first, second = makers(tmp_path)
    first.curve("block", (0, 2, 4))
    second.curve("block", (0, 2))
    second.curve("deepest", (3,))
    found = compared(first, second)
    assert found.num_both == 2
    assert [[entry.num_dropped for entry in alone] for alone in found.alone] == [[4], [3]]
    assert main([str(first.study), "--compare", str(second.study)]) == 0
    said = capsys.readouterr().out
    assert "Only in old: tiny block 2-5." in said
    assert "Only in new: tiny deepest 4-6." in said
    assert " ".join(said.split()).endswith(found.verdict)
    assert all(len(line) <= 100 for line in said.splitlines())
    assert not list(tmp_path.rglob("*.csv"))


def test_other_settings_are_other_points(tmp_path):
    first, second = makers(tmp_path)
    first.curve("block", (0, 2))
    second.curve("block", (0, 2), seed=1, limit=None)
    found = compared(first, second)
    assert found.changes == ()
    assert found.verdict == "old and new have no point in common: they differ in seed; eval.limit."


def test_other_questions_are_not_compared(tmp_path):
    first, second = makers(tmp_path)
    first.point(subjects=(), questions=20)
    second.point(subjects=(), questions=30)
    found = compared(first, second)
    assert [change.p for change in found.changes] == [None]
    assert "Without single answers" in found.verdict


def test_damaged_records_are_named_and_skipped(tmp_path, capsys):
    first, second = makers(tmp_path)
    for maker in (first, second):
        maker.curve("block", (0, 2, 4))
    paths = [second.study / "points" / point.key / "record.json" for point in second.made]
    paths[0].write_text(paths[0].read_text()[:100])
    paths[1].write_text(paths[1].read_text().replace('"schema": 1', '"schema": 0'))
    assert main(["--compare", str(first.study), str(second.study)]) == 0
    said = capsys.readouterr().out
    assert len(re.findall("^Skipped new: points/", said, re.MULTILINE)) == 2
    assert "Only in old: tiny block no layer; tiny block 4-5." in said


def test_a_folder_that_is_none_is_status_2(tmp_path, capsys):
    first, _ = makers(tmp_path)
    first.point()
    assert main(["--compare", str(first.study), str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
