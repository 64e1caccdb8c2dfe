"""How the tests run sweeps, and what they read of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

HEAL = (
    "heal.steps=4", "heal.batch_size=2", "heal.micro_batch_size=2", "heal.sequence_length=32",
    "heal.warmup_steps=1", "heal.save_every=1",
)  # fmt: skip

HEAL_LORA = (*HEAL, "heal.rank=2")
"""For jobs that are all healed."""

GRID = ("-m", "prune=block,deepest", "heal=none,lora", "prune.fraction=0,0.25,0.5")
"""Of two models 24 points; `grid` makes it one that runs."""

POINTS = 24


def arguments(tmp_path, models, tasks, *overrides):
    paths = ",".join(map(str, models))
    return [
        sys.executable, str(ROOT / "main.py"), *(["-m"] if "-m" in overrides else []),
        "model=custom", f"model.path={paths}",
        "eval.tasks=[letters]", f"eval.include_path={tasks}",
        "eval.trust_task_code=true", "data.sequence_length=32",
        "data.calibration_sequences=8", "data.heldout_sequences=4", "tracker=disabled",
        "runtime.threads=1", f"runtime.outputs={tmp_path / 'outputs'}", "study=sweep",
        *(each for each in overrides if each != "-m"),
    ]  # fmt: skip


def sweep(tmp_path, models, tasks, *overrides, status=0):
    done = subprocess.run(
        arguments(tmp_path, models, tasks, *overrides),
        cwd=tmp_path, capture_output=True, text=True, timeout=900,
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


def grid(presets):
    """The arguments of `GRID`; `presets` is where its recipe lies."""
    return (presets, *(each.replace("none,lora", "none,quick") for each in GRID))


def written(tmp_path):
    """When each record was written."""
    paths = study(tmp_path).glob("points/*/record.json")
    return {path: path.stat().st_mtime_ns for path in paths}


def curves(tmp_path):
    return (study(tmp_path) / "curves.csv").read_bytes()
