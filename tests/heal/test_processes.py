"""Two processes on one machine train as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def launch(launcher, tmp_path, tiny_folder, tiny_tasks, study):
    done = subprocess.run(
        [
            *launcher, str(ROOT / "main.py"), "model=custom", f"model.path={tiny_folder}",
            "eval.tasks=[letters]", f"eval.include_path={tiny_tasks}", "data.sequence_length=32",
            "data.calibration_sequences=8", "data.heldout_sequences=4", "tracker=disabled",
            "heal=full", "heal.steps=5", "heal.batch_size=4", "heal.micro_batch_size=2",
            "heal.sequence_length=32", "heal.warmup_steps=1", "heal.learning_rate=1e-3",
            "prune.fraction=[0.25,0.5]", f"study={study}", "runtime.device=cpu",
        ],
        cwd=tmp_path, capture_output=True, text=True,
        # A machine's own name may lead nowhere: the processes meet on loopback.
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    records = {}
    for path in (tmp_path / "outputs" / study / "points").glob("*/record.json"):
        record = json.loads(path.read_text())
        records[len(record["plan"]["dropped"])] = record
    return records


def test_same_loss_curve_as_one_process(tmp_path, tiny_folder, tiny_tasks):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
                "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0",
                "--local-addr", "127.0.0.1"]  # fmt: skip
    two = launch(torchrun, tmp_path, tiny_folder, tiny_tasks, "two")
    one = launch([sys.executable], tmp_path, tiny_folder, tiny_tasks, "one")
    assert set(one) == set(two) == {2, 4}
    for count in (2, 4):
        steps = [record[count]["healing"]["steps"] for record in (one, two)]
        assert len(steps[0]) == len(steps[1]) == 6
        for single, double in zip(*steps, strict=True):
            for name in ("loss", "heldout", "learning_rate"):
                assert double[name] == pytest.approx(single[name], abs=2e-3)
        assert one[count]["key"] == two[count]["key"]
