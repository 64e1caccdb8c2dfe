"""Offline: what is written is read back; nothing is written twice."""

import json
import threading

import pytest
from studies import Maker
from wandb_file import read_runs

from layerprune.config.schema import TrackerConfig, TrackerMode
from layerprune.report import draw
from layerprune.track import mirror
from layerprune.track.__main__ import main
from layerprune.track.media import media_key

OFFLINE = TrackerConfig(project="layers")


@pytest.fixture
def maker(tmp_path):
    return Maker(tmp_path / "study")


def read_back(study):
    runs = read_runs(study / "wandb")
    assert len({run.run_id for run in runs}) == len(runs), "one folder an id"
    return tuple(
        [run for run in runs if run.job_type == kind] for kind in ("point", "curve", "study")
    )


def fractions(run):
    return [row["fraction"] for row in run.history if "fraction" in row]


def test_every_point_and_every_curve_once_however_they_were_made(maker, capsys):
    maker.profile()
    maker.curve(counts=(4,))
    maker.curve("deepest", counts=(2,))
    first = mirror(maker.study, OFFLINE)
    assert (first.sent, first.kept, first.error) == (5, 0, "")
    maker.curve(counts=(0,))
    maker.curve("deepest", counts=(0,))
    second = mirror(maker.study, OFFLINE)
    assert (second.sent, second.kept) == (5, 2), "two points are new, both curves have grown"

    points, curves, (study,) = read_back(maker.study)
    assert len(points) == 4
    assert {len(fractions(run)) for run in points} == {1}
    assert sorted(fractions(run) for run in curves) == [[0, 0.25], [0, 0.5]]
    assert {run.group for run in (*points, *curves)} == {"tiny"}
    keys = {point.curve_key for point in maker.made}
    assert (
        {run.config["curve"] for run in points} == {run.config["curve"] for run in curves} == keys
    )
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
    assert set(state["runs"]) == {run.run_id for run in (*points, *curves, study)}
    assert {sent["mode"] for sent in state["runs"].values()} == {"offline"}
    assert "failed" not in capsys.readouterr().err


def test_healing_is_on_the_points_run(maker):
    maker.point([1, 2], heal="lora", steps=3)
    mirror(maker.study, OFFLINE)
    (point,), (curve,), _ = read_back(maker.study)
    assert ("heal/*", "heal/step") in point.metrics
    assert [row["heal/step"] for row in point.history if "heal/step" in row] == [0, 1, 2, 3]
    assert len([row for row in point.history if "heal/loss" in row]) == 3
    assert not any("heal/step" in row for row in curve.history)
    assert curve.history[0]["loss_before_healing"] == maker.made[0].healing.heldout_before


def test_the_studys_run_has_the_reports_figures_and_a_summary(maker):
    maker.profile()
    maker.curve(counts=(0, 2, 4))
    maker.curve(counts=(2, 4), heal="lora")
    report = draw(maker.study)
    drawn = {path.stem: path for path in report.written if path.suffix == ".png"}
    mirror(maker.study, OFFLINE)
    _, curves, (study,) = read_back(maker.study)
    assert study.group == "study"
    (shown,) = (row for row in study.history if "summary" in row)
    (folder,) = (maker.study / "wandb").glob(f"offline-run-*-{study.run_id}")
    pictures = {
        name: (folder / "files" / value["path"]).read_bytes()
        for name, value in shown.items()
        if value.get("_type") == "image-file"
    }
    assert pictures == {media_key(name): path.read_bytes() for name, path in drawn.items()}
    assert {"accuracy_facts", "loss", "healing", "layers"} <= pictures.keys()
    (file,) = folder.glob("files/media/table/summary*.json")
    table = json.loads(file.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [(row["heal"], row["task"]) for row in rows] == [("none", "facts"), ("lora", "facts")]
    published = (maker.study / "critical.md").read_text()
    assert all(row["critical"].replace("[", r"\[") in published for row in rows)
    # A healed curve and its counterpart are a pair.
    assert {run.config["recipe"]: run.config["pair"] for run in curves} == {
        "none": "tiny block angular seed 0", "lora": "tiny block angular seed 0"
    }  # fmt: skip


def test_figures_are_drawn_again_where_a_record_is_newer(maker):
    maker.curve(counts=(0, 2))
    draw(maker.study)
    maker.curve(counts=(4,))
    old = {path.stem: path.read_bytes() for path in (maker.study / "figures").glob("*.png")}
    mirror(maker.study, OFFLINE)
    _, _, (study,) = read_back(maker.study)
    (folder,) = (maker.study / "wandb").glob(f"offline-run-*-{study.run_id}")
    (shown,) = (row for row in study.history if "loss" in row)
    picture = (folder / "files" / shown["loss"]["path"]).read_bytes()
    draw(maker.study)
    assert picture != old["loss"]
    assert picture == (maker.study / "figures" / "loss.png").read_bytes()


def test_a_repeat_sends_nothing_and_does_not_import_wandb(maker, monkeypatch):
    maker.curve(counts=(0,))
    mirror(maker.study, OFFLINE)
    before = {path: path.stat().st_mtime_ns for path in (maker.study / "wandb").rglob("*")}
    monkeypatch.setattr("layerprune.track.sync._send", lambda *_: pytest.fail("sent again"))
    assert mirror(maker.study, OFFLINE).kept == 3
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
    assert "1 runs sent, 3 already there" in capsys.readouterr().out
    assert main([str(maker.study), "--project", "layers", "--all"]) == 0
    assert "4 runs sent" in capsys.readouterr().out
    points, (curve,), _ = read_back(maker.study)
    assert len(points) == 2
    assert fractions(curve) == [0, 0.25]


def test_a_run_that_was_synced_is_not_to_be_synced_again(maker, capsys):
    maker.curve(counts=(0,))
    mirror(maker.study, OFFLINE)
    for path in (maker.study / "wandb").glob("*run-*/run-*.wandb"):
        path.with_name(f"{path.name}.synced").touch()
    maker.curve(counts=(2,))
    mirror(maker.study, OFFLINE)
    assert "2 runs of study were synced before" in capsys.readouterr().err


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
    assert sorted((each.sent, each.kept) for each in done) == [(0, 3), (3, 0)]
    assert [len(runs) for runs in read_back(maker.study)] == [1, 1, 1]


def test_a_point_that_failed_is_a_run_that_failed(maker):
    from layerprune.errors import PointFailed
    from layerprune.record.store import Store

    maker.curve(counts=(0,))
    missing = maker.point([4, 5, 6], write=False)
    why = "not a number"
    Store(maker.study).write_failure(missing.key, missing.identity, why, PointFailed(why))
    mirror(maker.study, OFFLINE)
    points, (curve,), (study,) = read_back(maker.study)
    assert sorted(run.exit_code for run in points) == [0, 1]
    for run in (curve, study):
        assert (run.exit_code, run.summary["failed_points"]) == (1, 1)
    Store(maker.study).write(missing)
    mirror(maker.study, OFFLINE)
    points, (curve,), (study,) = read_back(maker.study)
    assert {run.exit_code for run in (*points, curve, study)} == {0}


def test_a_folder_that_is_none_is_a_warning(maker, capsys):
    maker.curve(counts=(0,))
    (maker.study / "wandb").write_text("a file where W&B wants a folder")
    done = mirror(maker.study, OFFLINE)
    assert done.error
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Weights & Biases failed" in said
    assert "the records are complete" in said


@pytest.mark.parametrize("arguments", [["nowhere"], ["empty"]])
def test_what_is_no_study_is_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
