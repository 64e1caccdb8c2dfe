"""The diffs in docs/extending.md: each is small, applies to this tree, and adds what it says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIFFS = re.findall(r"```diff\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL)

FOLDERS = ("layerprune", "conf", "tests", "experiments")


def test_each_is_small():
    assert len(DIFFS) == 5
    for diff in DIFFS:
        changed = [line for line in diff.splitlines() if re.match(r"[+-](?!\+\+|--)", line)]
        assert 0 < len(changed) < 40


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of this tree with all of them."""
    copy = tmp_path_factory.mktemp("extended")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("main.py", "pyproject.toml"):
        shutil.copy(ROOT / file, copy / file)
    # Above it there may be a repository, whose paths these are not.
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(copy.parent)}
    subprocess.run(
        ["git", "apply", "-"], cwd=copy, env=env, input="".join(DIFFS), text=True, check=True
    )
    return copy


def python(folder, *arguments):
    env = {**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, env=env, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_what_they_add_passes_their_tests(extended):
    said = python(
        extended, "-m", "pytest", "-p", "no:cacheprovider", "-rA",
        "tests/prune/test_metrics.py", "tests/prune/test_signs.py",
        "tests/prune/test_shallowest.py",
        "tests/prune/test_strategies.py",
        "tests/heal/test_norms.py", "tests/heal/test_recipes.py", "tests/config/test_models.py",
        "-k", "signs or shallowest or norms or danube3_500m or every_preset",
    )  # fmt: skip
    passed = "\n".join(line for line in said.splitlines() if line.startswith("PASSED"))
    for name in ("signs", "shallowest", "norms", "danube3_500m"):
        assert name in passed, said


@pytest.mark.slow
def test_a_run_can_be_made_of_all_of_them(extended, tiny_folder):
    python(
        extended, "main.py", "model=custom", f"model.path={tiny_folder}", "metric=signs",
        "prune=shallowest", "prune.fraction=0.25", "heal=norms", "heal.steps=2",
        "heal.batch_size=2", "heal.micro_batch_size=2", "heal.sequence_length=32",
        "data.sequence_length=32", "data.calibration_sequences=2", "data.heldout_sequences=2",
        "eval.include_path=metals", "eval.tasks=[metals]", "tracker=disabled",
        "runtime.threads=1",
    )  # fmt: skip
    (path,) = extended.glob("outputs/default/points/*/record.json")
    record = json.loads(path.read_text())
    assert record["plan"]["dropped"] == [1, 2]
    assert record["healing"]["recipe"] == "norms"
    assert [score["num_samples"] for score in record["scores"]] == [2]
