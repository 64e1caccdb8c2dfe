"""Two studies point by point, and which differences exceed noise."""

import re

import pytest
from studies import Maker

from layerprune.analysis.comparison import compare_by, compare_points, differing_settings
from layerprune.report.__main__ import main
from layerprune.report.tables.comparison import verdict

pytestmark = pytest.mark.quick


def compared(first, second):
    return compare_points(("old", "new"), first.made, second.made)


def makers(tmp_path):
    return Maker(tmp_path / "old"), Maker(tmp_path / "new")


def redo(maker, at, task, right):
    """Give a point other answers to a task, the first `right` of them right."""
    with maker.editing(at) as content:
        for score in content["scores"]:
            if score["task"] == task:
                total = score["num_samples"]
                score["correct"] = "1" * right + "0" * (total - right)
                score["measures"]["acc"]["value"] = right / total


def test_a_study_is_like_itself(tmp_path):
    first, second = makers(tmp_path)
    for maker in (first, second):
        maker.curve("block", (0, 2, 4))
    found = compared(first, second)
    assert found.num_pairs == 3
    assert found.only == ((), ())
    assert [change.p for change in found.differences] == [1.0] * 3
    assert verdict(found) == (
        "Every question has the same outcome at the 3 points that both have; "
        "losses differ by 0.0000 nats at most."
    )


def test_a_real_difference_is_told_from_noise(tmp_path):
    first, second = makers(tmp_path)
    for maker in (first, second):
        for count in (0, 1, 2, 3):
            maker.point(range(count), subjects=(), questions=400, limit=None)
            redo(maker, -1, "facts", 300)
    redo(second, 1, "facts", 303)  # three won, none lost: p = 0.25
    redo(second, 2, "facts", 200)
    with second.editing(2) as content:
        content["loss"]["nats"] += 0.5
    found = compared(first, second)
    assert [change.significant for change in found.differences] == [False, False, True, False]
    change = found.differences[2]
    assert (change.paired.only_first, change.paired.only_second) == (100, 0)
    assert change.difference == -0.25
    assert change.loss == 0.5
    assert change.paired.interval.low < -0.25 < change.paired.interval.high < 0
    assert "1 of 4 accuracies at the 4 points that both have differ beyond noise" in verdict(found)
    assert "new is better in 0 and worse in 1" in verdict(found)
    assert "-25.0 points" in verdict(found)
    assert "0.5000 nats" in verdict(found)


def test_losses_are_told_of_points_without_questions(tmp_path):
    first, second = makers(tmp_path)
    for maker in (first, second):
        maker.curve("block", (0, 2, 4))
        for at in range(3):
            with maker.editing(at) as content:
                content["scores"].clear()
    with second.editing(1) as content:
        content["loss"]["nats"] += 0.25
    found = compared(first, second)
    assert found.losses == (0.0, 0.25, 0.0)
    assert "losses differ by 0.2500 nats at most" in verdict(found)


def test_points_of_one_study_only_are_named(tmp_path, capsys):
    first, second = makers(tmp_path)
    first.curve("block", (0, 2, 4))
    second.curve("block", (0, 2))
    second.curve("deepest", (3,))
    found = compared(first, second)
    assert found.num_pairs == 2
    assert [[entry.num_dropped for entry in alone] for alone in found.only] == [[4], [3]]
    assert main([str(first.study), "--compare", str(second.study)]) == 0
    said = capsys.readouterr().out
    assert "Only in old: tiny block 2-5." in said
    assert "Only in new: tiny deepest 4-6." in said
    assert " ".join(said.split()).endswith(verdict(found))
    assert all(len(line) <= 100 for line in said.splitlines())
    assert not list(tmp_path.rglob("*.csv"))


def test_curves_of_other_settings_are_compared_where_as_many_layers_are_removed(tmp_path):
    first, second = makers(tmp_path)
    first.curve("block", (0, 2, 4))
    second.curve("deepest", (2, 4, 5), seed=1, heal="lora")
    found = compared(first, second)
    pairs = [(change.first.num_dropped, change.second.num_dropped) for change in found.differences]
    assert pairs == [(2, 2), (4, 4)]
    assert found.settings == (
        "heal.recipe none → lora", "prune.strategy block → deepest", "seed 0 → 1"
    )  # fmt: skip
    assert [[point.num_dropped for point in alone] for alone in found.only] == [[0], [5]]
    assert "2 pairs of points (they differ in heal.recipe none → lora; prune" in verdict(found)


def test_curves_are_paired_with_those_that_differ_least(tmp_path):
    first, second = makers(tmp_path)
    for seed in (0, 1):
        first.curve("random", (2, 4), seed=seed)
        second.curve("random", (2, 4), seed=seed, heal="lora")
    found = compared(first, second)
    assert {(change.first.seed, change.second.seed) for change in found.differences} == {
        (0, 0), (1, 1)
    }  # fmt: skip
    assert found.settings == ("heal.recipe none → lora",)
    # Where some points are the same in all settings, the others are not compared with anything.
    second.curve("random", (2,))
    assert [change.second.recipe for change in compared(first, second).differences] == ["none"]


def test_other_models_have_nothing_to_compare(tmp_path):
    first, second = makers(tmp_path)
    first.curve("block", (0, 2))
    second.curve("block", (0, 2), model="other")
    found = compared(first, second)
    assert found.differences == ()
    assert verdict(found) == (
        "old and new have no points to compare: they differ in model.fingerprint "
        "weights of tiny → weights of other."
    )


def test_the_points_of_one_study_are_compared_by_a_setting(tmp_path, capsys):
    maker, _ = makers(tmp_path)
    for heal in ("lora", "none", "linear"):
        for strategy in ("block", "deepest"):
            maker.curve(strategy, (2, 4), heal=heal)
    by_heal = compare_by("heal", maker.made)
    assert [found.names for found in by_heal] == [
        ("heal=none", "heal=linear"), ("heal=none", "heal=lora"),
    ]  # fmt: skip
    for found in by_heal:
        assert found.num_pairs == 4
        assert all(
            change.first.plan.strategy == change.second.plan.strategy
            for change in found.differences
        )
        assert all(change.loss < 0 for change in found.differences)
    (by_strategy,) = compare_by("strategy", maker.made)
    assert by_strategy.num_pairs == 6
    assert by_strategy.settings == ("prune.strategy block → deepest",)
    assert main([str(maker.study), "--by", "strategy"]) == 0
    said = capsys.readouterr().out
    assert "strategy=block → strategy=deepest" in said
    assert " ".join(said.split()).endswith(verdict(by_strategy))
    assert main([str(maker.study), "--by", "seed"]) == 2
    assert "has nothing to compare by seed: all of it is 0." in capsys.readouterr().err


def test_options_of_one_recipe_are_not_named_beside_it(tmp_path):
    maker, _ = makers(tmp_path)
    one, other = maker.point([2]), maker.point([2], heal="lora")
    other.identity["heal"]["rank"] = 8
    assert differing_settings(one, other) == {"heal.recipe": ("none", "lora")}
    same = maker.point([3], heal="lora")
    same.identity["eval"]["fewshot_seed"] = 1
    assert differing_settings(other, same) == {
        "eval.fewshot_seed": ("not set", "1"), "heal.rank": ("8", "not set"),
    }  # fmt: skip


def test_other_questions_are_not_compared(tmp_path):
    first, second = makers(tmp_path)
    first.point(subjects=(), questions=20)
    second.point(subjects=(), questions=30)
    found = compared(first, second)
    assert [change.p for change in found.differences] == [None]
    assert "Without single answers" in verdict(found)


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
