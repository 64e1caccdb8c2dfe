"""One truth, however a sweep is asked for; what is refused, and what fails."""

import json

import pytest
from sweeping import HEAL, HEAL_LORA, results, study

from layerprune import cli

pytestmark = pytest.mark.slow


def test_a_list_a_sweep_and_a_preset_give_the_same_records_to_the_bit(
    tmp_path, models, tiny_tasks, sweep_here, monkeypatch
):
    monkeypatch.setattr(cli, "show_study", lambda *_: None)  # records are compared, not reports
    every = ("0", "0.125", "0.25", "0.5", "0.875")
    told = [tmp_path / name for name in ("list", "sweep", "preset")]
    for home in told:
        home.mkdir()
    listed = f"prune.fraction=[{','.join(every)}]"
    one, *_ = models
    sweep_here(told[0], [one], tiny_tasks, "-m", "prune=block,deepest", listed)
    for heal in ("heal=lora", "heal=elastic"):
        sweep_here(told[0], [one], tiny_tasks, heal, *HEAL_LORA, "prune.fraction=[0.375,0.5]")
    swept = f"prune.fraction={','.join(reversed(every))}"
    sweep_here(told[1], [one], tiny_tasks, "-m", swept, "prune=deepest,block")
    healed = "-m", "heal=elastic,lora", *HEAL_LORA, "prune.fraction=0.5,0.375"
    sweep_here(told[1], [one], tiny_tasks, *healed)
    # Both are in one band: one pass evaluates them.
    records = [json.loads(path.read_text()) for path in study(told[1]).glob("points/*/record.json")]
    elastic = [one for one in records if one["identity"]["heal"]["recipe"] == "elastic"]
    assert [record["costs"]["shared_by"] for record in elastic] == [2, 2]
    presets = told[2] / "presets" / "experiment"
    presets.mkdir(parents=True)
    (presets / "mine.yaml").write_text(
        "# @package _global_\n"
        f"prune:\n  fraction: [{', '.join(every)}]\n"
        "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      prune: block,deepest\n"
    )
    search = f"hydra.searchpath=[file://{presets.parent}]"
    sweep_here(told[2], [one], tiny_tasks, search, "experiment=mine")
    listed_results, swept_results, preset_results = map(results, told)
    assert len(listed_results) == 2 * len(every) + 4
    assert swept_results == listed_results
    assert preset_results.items() <= listed_results.items()
    assert len(preset_results) == 2 * len(every)


def test_all_bad_combinations_are_told_before_anything_starts(
    tmp_path, models, tiny_tasks, sweep_here
):
    done = sweep_here(
        tmp_path, [*models, "/no/such/model"], tiny_tasks, "-m", "prune.fraction=0.5,1.2,0.99",
        status=2,
    )  # fmt: skip
    lines = done.stderr.strip().splitlines()
    told = [line for line in lines if line.startswith("layerprune: ")]
    assert len(told) == 3
    for words in ("model.path=/no/such/model", "prune.fraction=1.2", "prune.fraction=0.99"):
        assert sum(words in line for line in told) == 1
    assert not study(tmp_path).exists()


def test_a_sweep_over_nothing_is_refused(tmp_path, models, tiny_tasks, sweep_here):
    done = sweep_here(tmp_path, models[:1], tiny_tasks, "-m", "heal=glob(no*such)", status=2)
    assert "The sweep is empty" in done.stderr
    assert not study(tmp_path).exists()


def test_a_dry_run_prints_the_grid_and_makes_nothing(tmp_path, models, tiny_tasks, sweep_here):
    done = sweep_here(
        tmp_path, models, tiny_tasks, "-m", "prune.fraction=0,0.5,0.51", "dry_run=true"
    )
    assert "4 points, 4 to do" in done.stdout
    assert "one block by angular" in done.stdout
    assert not study(tmp_path).exists()


def test_one_failing_job_leaves_the_others_and_its_traceback(
    tmp_path, models, tiny_tasks, sweep_here
):
    common = ("-m", "heal=full", *HEAL, "prune.fraction=0.25,0.5", "heal.max_grad_norm=1e30")
    done = sweep_here(
        tmp_path, models[:1], tiny_tasks, *common, "heal.learning_rate=1e30,1e-3", status=1
    )
    assert sum("not a number" in line for line in done.stderr.splitlines()) == 2
    records = list(study(tmp_path).glob("points/*/record.json"))
    assert len(records) == 2
    tracebacks = list(study(tmp_path).glob("points/*/traceback.txt"))
    assert len(tracebacks) == 2
    assert all("Traceback" in path.read_text() for path in tracebacks)
    assert all(str(path) in done.stdout.replace("\n", "") for path in tracebacks)
    before = {path: path.stat().st_mtime_ns for path in records}
    shown = sweep_here(
        tmp_path, models[:1], tiny_tasks, *common, "heal.learning_rate=1e30,1e-3", "dry_run=true"
    )
    assert "4 points, 2 to do" in shown.stdout
    assert {path: path.stat().st_mtime_ns for path in records} == before
