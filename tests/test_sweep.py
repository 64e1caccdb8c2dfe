"""Sweeps: one truth however it is asked for, nothing done twice, nothing lost when killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import byte_tokenizer, tiny

ROOT = Path(__file__).parent.parent

HEAL = (
    "heal.steps=4", "heal.batch_size=2", "heal.micro_batch_size=2", "heal.sequence_length=32",
    "heal.warmup_steps=1", "heal.save_every=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two tiny models, by their folders."""
    home = tmp_path_factory.mktemp("sweep")
    folders = []
    for name, hidden in (("one", 32), ("other", 48)):
        folders.append(home / name)
        model = tiny("llama", vocab_size=259, max_position_embeddings=512, hidden_size=hidden)
        model.save_pretrained(folders[-1])
        byte_tokenizer().save_pretrained(folders[-1])
    return folders


def arguments(tmp_path, models, tasks, *overrides):
    paths = ",".join(map(str, models))
    return [
        sys.executable, str(ROOT / "main.py"), *(["-m"] if "-m" in overrides else []),
        "model=custom", f"model.path={paths}",
        "eval.tasks=[letters]", f"eval.include_path={tasks}", "data.sequence_length=32",
        "data.calibration_sequences=8", "data.heldout_sequences=4", "tracker=disabled",
        "runtime.threads=1", f"runtime.outputs={tmp_path / 'outputs'}", "study=sweep",
        *(each for each in overrides if each != "-m"),
    ]  # fmt: skip


def sweep(tmp_path, models, tasks, *overrides, status=0):
    done = subprocess.run(
        arguments(tmp_path, models, tasks, *overrides),
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "COLUMNS": "120"},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done


def study(tmp_path):
    return tmp_path / "outputs" / "sweep"


def results(tmp_path):
    """What points came to, without what depends on the time and the place."""
    found = {}
    for path in study(tmp_path).glob("points/*/record.json"):
        record = json.loads(path.read_text())
        healing = record["healing"] and [step["loss"] for step in record["healing"]["steps"]]
        config = {**record["config"], "study": None, "runtime": None}
        parts = (record[name] for name in ("identity", "model", "plan", "scores", "loss"))
        found[path.parent.name] = (*parts, healing, config)
    return found


def test_a_list_a_sweep_and_a_preset_give_the_same_records_to_the_bit(tmp_path, models, tiny_tasks):
    every = ("0", "0.125", "0.25", "0.5", "0.875")
    told = [tmp_path / name for name in ("list", "sweep", "preset")]
    for home in told:
        home.mkdir()
    both = ("heal=none,lora", *HEAL_LORA)
    listed = f"prune.fraction=[{','.join(every)}]"
    one, *_ = models
    sweep(told[0], [one], tiny_tasks, "-m", "prune=block,deepest", listed)
    sweep(told[0], [one], tiny_tasks, "heal=lora", *HEAL_LORA, "prune.fraction=[0.25,0.5]")
    swept = f"prune.fraction={','.join(reversed(every))}"
    sweep(told[1], [one], tiny_tasks, "-m", swept, "prune=deepest,block")
    sweep(told[1], [one], tiny_tasks, "-m", "heal=lora", *HEAL_LORA, "prune.fraction=0.5,0.25")
    presets = told[2] / "presets" / "experiment"
    presets.mkdir(parents=True)
    (presets / "mine.yaml").write_text(
        "# @package _global_\n"
        f"prune:\n  fraction: [{', '.join(every)}]\n"
        "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      prune: block,deepest\n"
    )
    search = f"hydra.searchpath=[file://{presets.parent}]"
    sweep(told[2], [one], tiny_tasks, search, "experiment=mine")
    listed_results, swept_results, preset_results = map(results, told)
    assert len(listed_results) == 2 * len(every) + 2
    assert swept_results == listed_results
    assert preset_results.items() <= listed_results.items()
    assert len(preset_results) == 2 * len(every)
    assert both


def test_all_bad_combinations_are_told_before_anything_starts(tmp_path, models, tiny_tasks):
    done = sweep(
        tmp_path, [*models, "/no/such/model"], tiny_tasks, "-m", "prune.fraction=0.5,1.2,0.99",
        status=2,
    )  # fmt: skip
    lines = done.stderr.strip().splitlines()
    told = [line for line in lines if line.startswith("layerprune: ")]
    assert len(told) == 3
    for words in ("model.path=/no/such/model", "prune.fraction=1.2", "prune.fraction=0.99"):
        assert sum(words in line for line in told) == 1
    assert not study(tmp_path).exists()


def test_a_sweep_over_nothing_is_refused(tmp_path, models, tiny_tasks):
    done = sweep(tmp_path, models[:1], tiny_tasks, "-m", "heal=glob(no*such)", status=2)
    assert "The sweep is empty" in done.stderr
    assert not study(tmp_path).exists()


def test_a_dry_run_prints_the_grid_and_makes_nothing(tmp_path, models, tiny_tasks):
    done = sweep(tmp_path, models, tiny_tasks, "-m", "prune.fraction=0,0.5,0.51", "dry_run=true")
    assert "4 points, 4 to do" in done.stdout
    assert "one block by angular" in done.stdout
    assert not study(tmp_path).exists()


def test_one_failing_job_leaves_the_others_and_its_traceback(tmp_path, models, tiny_tasks):
    common = ("-m", "heal=full", *HEAL, "prune.fraction=0.25,0.5", "heal.max_grad_norm=1e30")
    done = sweep(
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
    shown = sweep(
        tmp_path, models[:1], tiny_tasks, *common, "heal.learning_rate=1e30,1e-3", "dry_run=true"
    )
    assert "4 points, 2 to do" in shown.stdout
    assert {path: path.stat().st_mtime_ns for path in records} == before


GRID = ("-m", "prune=block,deepest", "heal=none,lora", "prune.fraction=0,0.125,0.25,0.375,0.5,0.75")
HEAL_LORA = (*HEAL, "heal.rank=2")
"""For jobs that are all healed."""


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """A recipe with a name of its own, so that `heal` can be swept."""
    folder = tmp_path_factory.mktemp("presets")
    (folder / "heal").mkdir()
    keys = "".join(f"{key.removeprefix('heal.').replace('=', ': ')}\n" for key in HEAL)
    (folder / "heal" / "quick.yaml").write_text("defaults: [lora, _self_]\n" + keys + "rank: 2\n")
    return f"hydra.searchpath=[file://{folder}]"


def grid(presets):
    return (presets, *(each.replace("none,lora", "none,quick") for each in GRID))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, models, tiny_tasks, presets):
    """The grid's `curves.csv`, made in one go."""
    home = tmp_path_factory.mktemp("undisturbed")
    sweep(home, models, tiny_tasks, *grid(presets))
    return home


def written(tmp_path):
    """When each record was written."""
    paths = study(tmp_path).glob("points/*/record.json")
    return {path: path.stat().st_mtime_ns for path in paths}


def curves(tmp_path):
    return (study(tmp_path) / "curves.csv").read_bytes()


def test_killed_and_started_again(tmp_path, models, tiny_tasks, presets, undisturbed):
    kills = int(os.environ.get("LAYERPRUNE_TEST_KILLS", "3"))
    rng = random.Random(0)
    before: dict = {}
    for _ in range(kills):
        run = subprocess.Popen(
            arguments(tmp_path, models, tiny_tasks, *grid(presets)),
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        # A moment at random, counted in points and then in time within one.
        wanted = len(before) + rng.randrange(1, max(2, 48 // kills))
        while len(written(tmp_path)) < wanted and run.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.random())
        run.send_signal(signal.SIGKILL)
        run.wait()
        now = written(tmp_path)
        assert before.items() <= now.items(), "a finished point was made again"
        before = now
    sweep(tmp_path, models, tiny_tasks, *grid(presets))
    assert before.items() <= written(tmp_path).items()
    assert len(written(tmp_path)) == 48
    assert curves(tmp_path) == curves(undisturbed)
    assert results(tmp_path) == results(undisturbed)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_other_launchers_give_the_same(
    tmp_path, models, tiny_tasks, presets, undisturbed, launcher
):
    extra = launcher.partition("_")[0]
    plugin = f"hydra_plugins.hydra_{extra}_launcher"
    pytest.importorskip(plugin, reason=f"layerprune[{extra}] is not here")
    listed = [each.replace("fraction=", "fraction=[") + "]" if "fraction" in each else each
              for each in grid(presets)]  # fmt: skip
    sweep(tmp_path, models, tiny_tasks, *listed, f"launcher={launcher}")
    assert curves(tmp_path) == curves(undisturbed)
    assert results(tmp_path) == results(undisturbed)


def test_two_sweeps_at_once_do_each_point_once(tmp_path, models, tiny_tasks, presets, undisturbed):
    runs = [
        subprocess.Popen(
            arguments(tmp_path, models, tiny_tasks, *grid(presets)),
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for run in runs:
        _, said = run.communicate(timeout=300)
        assert run.returncode == 0, said
    assert curves(tmp_path) == curves(undisturbed)
    logs = study(tmp_path).glob("jobs/*/layerprune.log")
    made = [line.rpartition(" ")[2] for log in logs for line in log.read_text().splitlines()
            if "made the point" in line]  # fmt: skip
    assert len(made) == 48
    assert len(set(made)) == 48
