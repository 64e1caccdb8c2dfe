"""The checks for a GPU run on a CPU, with tiny shapes: the script itself, and its tolerances."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "experiments" / "check_gpu.py"


def check(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_every_section_passes():
    before = (ROOT / "experiments" / "gpu.md").exists()
    done = check("--tiny")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    results = [line[:6] for line in done.stdout.splitlines() if line.startswith(("pass", "FAIL"))]
    assert results == ["pass  "] * 16
    assert (ROOT / "experiments" / "gpu.md").exists() is before


def test_without_a_gpu_it_says_so():
    done = check()
    assert done.returncode == 2
    assert "--tiny" in done.stdout
