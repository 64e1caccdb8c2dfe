"""Nothing done twice, nothing lost when a sweep is killed."""

import os
import random
import signal
import subprocess
import time

import pytest
from sweeping import arguments, curves, grid, results, sweep, written

pytestmark = pytest.mark.slow


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
        assert before.items() <= now.items(), "a finished point was recomputed"
        before = now
    sweep(tmp_path, models, tiny_tasks, *grid(presets))
    assert before.items() <= written(tmp_path).items()
    assert len(written(tmp_path)) == 48
    assert curves(tmp_path) == curves(undisturbed)
    assert results(tmp_path) == results(undisturbed)
