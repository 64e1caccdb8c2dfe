"""Two sweeps over the same points, at the same time."""

import subprocess

import pytest
from sweeping import arguments, curves, grid, study

pytestmark = pytest.mark.slow


def test_two_sweeps_at_once_do_each_point_once(tmp_path, models, tiny_tasks, presets, undisturbed):
    runs = [
        subprocess.Popen(
            arguments(tmp_path, models, tiny_tasks, *grid(presets)),
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for run in runs:
        _, said = run.communicate(timeout=900)
        assert run.returncode == 0, said
    assert curves(tmp_path) == curves(undisturbed)
    logs = study(tmp_path).glob("jobs/*/layerprune.log")
    made = [line.rpartition(" ")[2] for log in logs for line in log.read_text().splitlines()
            if "made the point" in line]  # fmt: skip
    assert len(made) == 48
    assert len(set(made)) == 48
