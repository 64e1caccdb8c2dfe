"""Two processes on one machine train as one does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from tiny import tiny

from layerprune.config.compose import compose
from layerprune.config.schema import Dtype
from layerprune.data.text import read_text
from layerprune.errors import UserError
from layerprune.heal.fsdp import shard_frozen_weights
from layerprune.heal.healing import PointHealing
from layerprune.heal.setup import HealContext
from layerprune.heal.trainer import train, training_arguments
from layerprune.model.source import locate
from layerprune.model.stack import decoder_stack
from layerprune.prune.plan import Plan

pytestmark = pytest.mark.slow

PLAN = Plan("block", 8, (3, 4), 0.1, "a test")
IDS_ST = torch.arange(128).view(4, 32) % 50

ROOT = Path(__file__).parent.parent.parent


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
            "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0",
            "--local-addr", "127.0.0.1"]  # fmt: skip


def launch(launcher, tmp_path, folder, tiny_tasks, study, *overrides):
    tmp_path.mkdir(exist_ok=True)
    done = subprocess.run(
        [
            *launcher, str(ROOT / "main.py"), "model=custom", f"model.path={folder}",
            "eval.tasks=[letters]", f"eval.include_path={tiny_tasks}",
            "eval.trust_task_code=true", "data.sequence_length=32",
            "data.calibration_sequences=8", "data.heldout_sequences=4", "tracker=disabled",
            "heal.steps=5", "heal.batch_size=4", "heal.micro_batch_size=2",
            "heal.sequence_length=32", "heal.warmup_steps=1", "heal.learning_rate=1e-3",
            "prune.fraction=[0.25,0.5]", f"study={study}", "runtime.device=cpu",
            *overrides,
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


@pytest.mark.parametrize("heal", [["heal=full"], ["heal=elastic", "heal.dropout=0"]])
def test_same_loss_curve_as_one_process(tmp_path, tiny_folder, tiny_tasks, heal):
    two = launch(TORCHRUN, tmp_path, tiny_folder, tiny_tasks, "two", *heal)
    # Elsewhere, or it would find what the others trained.
    one = launch([sys.executable], tmp_path / "alone", tiny_folder, tiny_tasks, "one", *heal)
    assert set(one) == set(two) == {2, 4}
    for count in (2, 4):
        alike(one[count], two[count])


def alike(one, other):
    steps = [record["healing"]["steps"] for record in (one, other)]
    assert len(steps[0]) == len(steps[1]) == 6
    for single, double in zip(*steps, strict=True):
        for name in ("loss", "heldout", "learning_rate"):
            assert double[name] == pytest.approx(single[name], abs=2e-3)
    assert one["key"] == other["key"]


def test_shared_out_weights_train_alike(tmp_path, folder_64, tiny_tasks):
    heal = "heal=qlora", "heal.dropout=0"  # what dropout draws depends on the process
    two = launch(TORCHRUN, tmp_path, folder_64, tiny_tasks, "two", *heal, "runtime.shard=true")
    one = launch([sys.executable], tmp_path, folder_64, tiny_tasks, "one", *heal)
    assert set(one) == set(two) == {2, 4}
    for count in (2, 4):
        alike(one[count], two[count])
        asked = [record[count]["scores"][0]["correct"] for record in (one, two)]
        assert asked[0] == asked[1]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def share(rank, port, folder):
    """A process of two: what it holds of a model before and after, and what the model says."""
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    context = HealContext(tiny("llama"), PLAN, IDS_ST, folder, recompute_activations=True)
    setup = compose("heal=lora").heal.prepare(context)
    model = setup.objective.model
    before = setup.objective(IDS_ST)["loss"]
    shard_frozen_weights(setup, model, torch.device("cpu"))
    frozen = [part for part in decoder_stack(model).layers.parameters() if not part.requires_grad]
    held = sum(part.to_local().numel() for part in frozen)
    with torch.inference_mode():
        measured = setup.objective(IDS_ST)["loss"]
    setup.objective.train()
    after = setup.objective(IDS_ST)["loss"]
    after.backward()
    slope = sum(part.grad.abs().sum() for part in model.parameters() if part.requires_grad)
    share_of = held / sum(part.numel() for part in frozen)
    losses = [float(each) for each in (before, measured, after)]
    (folder / f"{rank}.json").write_text(json.dumps([share_of, float(slope), *losses]))
    torch.distributed.destroy_process_group()


def test_each_process_holds_its_share_of_the_frozen_weights(tmp_path):
    torch.multiprocessing.spawn(share, (free_port(), tmp_path), nprocs=2)
    for rank in range(2):
        share_of, slope, *losses = json.loads((tmp_path / f"{rank}.json").read_text())
        assert share_of == pytest.approx(0.5, abs=0.01)
        assert losses == pytest.approx([losses[0]] * 3, abs=1e-6)
        assert slope > 0


def train_sharded(rank, port, folder):
    """A process of two that accelerate takes for processes on GPUs; it trains two steps."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    Accelerator.multi_device = property(lambda _: True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = compose(
        "heal=lora", "heal.steps=2", "heal.batch_size=4", "heal.micro_batch_size=1",
        "heal.sequence_length=32", "heal.warmup_steps=1", "heal.learning_rate=1e-2",
        "heal.dropout=0",
    ).heal  # fmt: skip
    cpu = torch.device("cpu")
    arguments = training_arguments(options, folder / "checkpoints", 0, Dtype.bfloat16, cpu)
    context = HealContext(tiny("llama"), PLAN, IDS_ST, folder, recompute_activations=True)
    setup = options.prepare(context)
    shard_frozen_weights(setup, setup.objective.model, cpu)
    kinds = []
    setup.objective.model.lm_head.register_forward_hook(lambda *args: kinds.append(args[2].dtype))
    train(setup, options, arguments, lambda: 1.0)
    trained = [part for part in setup.objective.parameters() if part.requires_grad]
    sums = [float(part.double().abs().sum()) for part in trained]
    (folder / f"{rank}.json").write_text(json.dumps([sums, [str(kind) for kind in set(kinds)]]))
    torch.distributed.destroy_process_group()


def test_gpus_train_a_sharded_model_together(tmp_path):
    torch.multiprocessing.spawn(train_sharded, (free_port(), tmp_path), nprocs=2)
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert one == other
    assert one[1] == ["torch.bfloat16"]  # autocast is on


def test_sharing_out_needs_several_processes(tmp_path, tiny_folder):
    config = compose(
        "model=custom", f"model.path={tiny_folder}", "heal=lora", "runtime.shard=true",
        f"runtime.outputs={tmp_path}",
    )  # fmt: skip
    source = locate(config.model, tmp_path / "cache")
    with pytest.raises(UserError, match="one process"):
        PointHealing(
            source, PLAN, read_text(config.data), config, tmp_path, tmp_path, lambda _: 0.0
        ).run()
