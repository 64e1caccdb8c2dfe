"""The same records, each computed once: killed sweeps, two at a time, and other launchers.

The tests share the results of one undisturbed sweep, so they are in one file.
"""

import os
import random
import signal
import subprocess
import time

import pytest
from sweeping import POINTS, arguments, curves, grid, results, study, sweep, written

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, models, tiny_tasks, presets):
    """The folder of the grid, computed by one process without interruption."""
    home = tmp_path_factory.mktemp("undisturbed")
    sweep(home, models, tiny_tasks, *grid(presets))
    return home


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
        wanted = len(before) + rng.randrange(1, max(2, POINTS // kills))
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
    assert len(written(tmp_path)) == POINTS
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
        _, said = run.communicate(timeout=900)
        assert run.returncode == 0, said
    assert curves(tmp_path) == curves(undisturbed)
    logs = study(tmp_path).glob("jobs/*/layerprune.log")
    made = [line.rpartition(" ")[2] for log in logs for line in log.read_text().splitlines()
            if "made the point" in line]  # fmt: skip
    assert len(made) == POINTS
    assert len(set(made)) == POINTS


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
