"""A study as runs, without W&B: what is one run, what is in it, what changes it."""

import dataclasses
import json
import subprocess
import sys

import pytest
from studies import Maker

from layerprune.errors import PointFailed
from layerprune.record.store import Store
from layerprune.track.runs import healing_rows, history_row, make_runs


@pytest.fixture
def maker(tmp_path):
    return Maker(tmp_path / "study")


def by_kind(study):
    runs, skipped = make_runs(study)
    assert skipped == []
    return {kind: [run for run in runs if run.kind == kind] for kind in ("point", "curve")}


def test_a_run_a_point_and_one_a_curve_in_the_order_of_fractions(maker):
    maker.curve(counts=(4, 0, 2))
    maker.curve("deepest", counts=(0, 2))
    maker.curve(counts=(2,), heal="lora")
    runs = by_kind(maker.study)
    assert len(runs["point"]) == 6
    assert len(runs["curve"]) == 3
    assert len({run.id for kind in runs.values() for run in kind}) == 9
    (whole,) = (run for run in runs["curve"] if run.name == "tiny block angular none seed 0")
    assert [part[0]["fraction"] for part in whole.parts] == [0, 0.25, 0.5]
    assert {run.curve for run in runs["point"]} == {run.curve for run in runs["curve"]}
    assert all(run.exit_code == 0 for kind in runs.values() for run in kind)


def test_all_tasks_of_a_curve_are_columns_of_one_run(maker):
    maker.curve(tasks=("facts", "boolq"))
    (curve,) = by_kind(maker.study)["curve"]
    assert {"facts/acc", "boolq/acc", "facts_capitals/acc", "heldout/loss"} <= set(
        curve.parts[0][0]
    )


def test_names_with_a_slash_are_the_measures_of_curves_csv(maker):
    values = history_row(maker.point([1, 2], heal="lora"))
    measures = {name for name in values if "/" in name and not name.endswith("_stderr")}
    assert measures == {
        f"{task}/{measure}"
        for task in ("facts", "facts_capitals", "facts_physics")
        for measure in ("acc", "acc_norm")
    } | {"heldout/loss", "heldout/loss_normalised"}
    assert values["loss_before_healing"] > values["loss_after_healing"]
    assert values["seconds"] == 2.0


def test_healing_is_a_curve_of_its_own(maker):
    point = maker.point([1, 2], heal="lora")
    rows = healing_rows(point)
    assert [each["heal/step"] for each in rows] == list(range(7))
    assert all("fraction" not in each for each in rows)
    assert healing_rows(maker.point([1])) == []


def test_content_follows_records_and_nothing_else(maker):
    maker.curve()
    first = {run.id: run.content for run in make_runs(maker.study)[0]}
    assert {run.id: run.content for run in make_runs(maker.study)[0]} == first
    maker.point([6], write=True)
    second = {run.id: run.content for run in make_runs(maker.study)[0]}
    changed = {name for name in first if first[name] != second[name]}
    assert len(set(second) - set(first)) == 1
    assert len(changed) == 2, "the curve and the study"


def test_another_study_has_other_ids(maker, tmp_path):
    maker.curve()
    other = Maker(tmp_path / "other")
    other.curve()
    ours, theirs = ({run.id for run in make_runs(m.study)[0]} for m in (maker, other))
    assert not ours & theirs


def test_a_failed_point_is_a_failed_run_and_its_curve_is_not_whole(maker):
    maker.curve(counts=(0, 2))
    missing = maker.point([4, 5, 6], write=False)
    store = Store(maker.study)
    why = "the loss is not a number"
    store.write_failure(missing.key, missing.identity, why, PointFailed(why))
    runs = by_kind(maker.study)
    (failed,) = (run for run in runs["point"] if run.exit_code)
    assert failed.summary == {"failed": True, "error": "the loss is not a number"}
    (curve,) = runs["curve"]
    assert failed.curve == curve.curve == missing.curve_key
    assert (curve.exit_code, curve.summary) == (1, {"points": 2, "failed_points": 1})
    store.write(missing)
    runs = by_kind(maker.study)
    assert {run.exit_code for kind in runs.values() for run in kind} == {0}
    assert failed.id in {run.id for run in runs["point"]}


def test_a_damaged_record_costs_its_own_run_only(maker):
    maker.curve(counts=(0, 2))
    path = maker.study / "points" / maker.made[0].key / "record.json"
    path.write_text(path.read_text().replace('"fraction":', '"function":'))
    runs, skipped = make_runs(maker.study)
    assert [run.kind for run in runs] == ["point", "curve", "study"]
    assert [line.split(":")[0] for line in skipped] == [f"points/{maker.made[0].key}/record.json"]


def test_secrets_stay_out_of_records_and_runs(maker, monkeypatch):
    key = "0123456789abcdef" * 2 + "01234567"
    monkeypatch.setenv("WANDB_API_KEY", key)
    point = maker.point([1], write=False)
    config = {
        "data": {"hub": "https://me:pa55word@host/x", "files": [f"https://h/x?token={key}&y=1"]},
        "model": {"path": "org/model", "revision": "hf_abcdefghijklmnopqrstuvwxyz"},
    }
    provenance = dataclasses.replace(point.provenance, arguments=(f"tracker.entity={key}",))
    path = Store(maker.study).write(
        dataclasses.replace(point, config=config, provenance=provenance)
    )
    text = path.read_text()
    (curve,) = by_kind(maker.study)["curve"]
    (run,) = by_kind(maker.study)["point"]
    text += json.dumps([dataclasses.asdict(run), dataclasses.asdict(curve)])
    for secret in (key, "pa55word", "hf_abcdef"):
        assert secret not in text
    assert "https://***@host/x" in text
    assert "org/model" in text
    assert "y=1" in text


def test_importing_the_mirror_is_light():
    heavy = "('wandb', 'altair', 'vl_convert', 'torch', 'transformers', 'hydra', 'pandas')"
    code = f"import sys, layerprune.track.__main__; print([n for n in {heavy} if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
