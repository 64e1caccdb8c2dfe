"""Offline: what is written is read back; nothing is written twice."""

import json
import threading

import pytest
from studies import Maker
from wandb_file import read_runs

from layerprune.config.schema import TrackerConfig, TrackerMode
from layerprune.track import mirror
from layerprune.track.__main__ import main

OFFLINE = TrackerConfig(project="layers")


@pytest.fixture
def maker(tmp_path):
    return Maker(tmp_path / "study")


def read_back(study):
    runs = read_runs(study / "wandb")
    assert len({run.run_id for run in runs}) == len(runs), "one folder an id"
    return (
        [run for run in runs if run.job_type == "point"],
        [run for run in runs if run.job_type == "curve"],
    )


def fractions(run):
    return [row["fraction"] for row in run.history if "fraction" in row]


def test_every_point_and_every_curve_once_however_they_were_made(maker, capsys):
    maker.profile()
    maker.curve(counts=(4,))
    maker.curve("deepest", counts=(2,))
    first = mirror(maker.study, OFFLINE)
    assert (first.sent, first.kept, first.failed) == (4, 0, "")
    maker.curve(counts=(0,))
    maker.curve("deepest", counts=(0,))
    second = mirror(maker.study, OFFLINE)
    assert (second.sent, second.kept) == (4, 2), "two points are new, and both curves have grown"

    points, curves = read_back(maker.study)
    assert len(points) == 4
    assert {len(fractions(run)) for run in points} == {1}
    assert sorted(fractions(run) for run in curves) == [[0, 0.25], [0, 0.5]]
    keys = {point.curve_key for point in maker.made}
    assert {run.group for run in points} == {run.group for run in curves} == keys
    for run in (*points, *curves):
        assert run.exit_code == 0
        assert run.project == "layers"
        assert run.config["study"] == "study"
        assert ("*", "fraction") in run.metrics
    (shown,) = (row for row in curves[0].history if "distances" in row)
    assert "fraction" not in shown
    assert shown["distances"]["_type"] == shown["plot_loss"]["_type"] == "image-file"
    assert {"plot_accuracy_facts", "curve"} <= set(shown)
    assert shown["curve"]["nrows"] == 2
    (folder,) = (maker.study / "wandb").glob(f"offline-run-*-{curves[0].run_id}")
    assert (folder / "files" / shown["distances"]["path"]).is_file()

    state = json.loads((maker.study / "wandb" / "mirrored.json").read_text())
    assert set(state["runs"]) == {run.run_id for run in (*points, *curves)}
    assert {sent["mode"] for sent in state["runs"].values()} == {"offline"}
    assert "failed" not in capsys.readouterr().err


def test_healing_is_on_the_points_run(maker):
    maker.point([1, 2], heal="lora", steps=3)
    mirror(maker.study, OFFLINE)
    (point,), (curve,) = read_back(maker.study)
    assert ("heal/*", "heal/step") in point.metrics
    assert [row["heal/step"] for row in point.history if "heal/step" in row] == [0, 1, 2, 3]
    assert len([row for row in point.history if "heal/loss" in row]) == 3
    assert not any("heal/step" in row for row in curve.history)
    assert curve.history[0]["loss_before_healing"] == maker.made[0].healing["heldout_before"]


def test_a_repeat_sends_nothing_and_does_not_import_wandb(maker, monkeypatch):
    maker.curve(counts=(0,))
    mirror(maker.study, OFFLINE)
    before = {path: path.stat().st_mtime_ns for path in (maker.study / "wandb").rglob("*")}
    monkeypatch.setattr("layerprune.track.mirrored._send", lambda *_: pytest.fail("sent again"))
    assert mirror(maker.study, OFFLINE).kept == 2
    assert mirror(maker.study, TrackerConfig(mode=TrackerMode.disabled)).sent == 0
    after = {path: path.stat().st_mtime_ns for path in (maker.study / "wandb").rglob("*")}
    assert before == after


def test_what_is_lost_changed_or_asked_for_is_sent_again(maker, capsys):
    maker.curve(counts=(0, 2))
    mirror(maker.study, OFFLINE)
    (folder,) = (maker.study / "wandb").glob(f"offline-run-*-{read_back(maker.study)[1][0].run_id}")
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.rmdir()
    assert main([str(maker.study), "--project", "layers"]) == 0
    assert "1 runs sent, 2 were there already" in capsys.readouterr().out
    assert main([str(maker.study), "--project", "layers", "--all"]) == 0
    assert "3 runs sent" in capsys.readouterr().out
    points, (curve,) = read_back(maker.study)
    assert len(points) == 2
    assert fractions(curve) == [0, 0.25]


def test_a_run_that_was_synced_is_not_to_be_synced_again(maker, capsys):
    maker.curve(counts=(0,))
    mirror(maker.study, OFFLINE)
    for path in (maker.study / "wandb").glob("*run-*/run-*.wandb"):
        path.with_name(f"{path.name}.synced").touch()
    maker.curve(counts=(2,))
    mirror(maker.study, OFFLINE)
    assert "1 runs of study were synced before" in capsys.readouterr().err


def test_two_at_once_write_every_run_once(maker):
    maker.curve(counts=(0,))
    done = []
    both = [
        threading.Thread(target=lambda: done.append(mirror(maker.study, OFFLINE))) for _ in range(2)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted((each.sent, each.kept) for each in done) == [(0, 2), (2, 0)]
    points, curves = read_back(maker.study)
    assert (len(points), len(curves)) == (1, 1)


def test_a_point_that_failed_is_a_run_that_failed(maker):
    from layerprune.errors import PointFailed
    from layerprune.record.store import Store

    maker.curve(counts=(0,))
    missing = maker.point([4, 5, 6], write=False)
    why = "not a number"
    Store(maker.study).write_failure(missing.key, missing.identity, why, PointFailed(why))
    mirror(maker.study, OFFLINE)
    points, (curve,) = read_back(maker.study)
    assert sorted(run.exit_code for run in points) == [0, 1]
    assert (curve.exit_code, curve.summary["failed_points"]) == (1, 1)
    Store(maker.study).write(missing)
    mirror(maker.study, OFFLINE)
    points, (curve,) = read_back(maker.study)
    assert {run.exit_code for run in (*points, curve)} == {0}


def test_a_folder_that_is_none_is_a_warning(maker, capsys):
    maker.curve(counts=(0,))
    (maker.study / "wandb").write_text("a file where W&B wants a folder")
    done = mirror(maker.study, OFFLINE)
    assert done.failed
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Weights & Biases failed" in said
    assert "the records are whole" in said


@pytest.mark.parametrize("arguments", [["nowhere"], ["empty"]])
def test_what_is_no_study_is_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
