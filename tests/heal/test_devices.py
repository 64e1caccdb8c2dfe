"""Healing where GPUs are visible: one process trains on one device, the one that was chosen.

There is no GPU here: what PyTorch says of GPUs is replaced.
"""

import sys

import accelerate
import pytest
import torch
from healing_runs import PLAN, configure, run
from torch import nn
from transformers import Trainer

from layerprune.config.compose import compose
from layerprune.errors import UserError
from layerprune.heal.trainer import split_batch, training_arguments
from layerprune.model.load import load, torch_device
from layerprune.model.source import locate
from layerprune.model.surgery import drop_layers
from layerprune.run import pipeline
from layerprune.runtime import memory


@pytest.fixture(params=[1, 2, 4, 8])
def gpus(request, monkeypatch):
    """Let PyTorch say that there are so many GPUs, of which none was used yet."""

    def reset(device=None):  # as CUDACachingAllocator.cpp: assertValidDevice
        if not torch.cuda.is_initialized():
            raise RuntimeError(f"Invalid device argument {device}: did you call init?")

    chosen = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: request.param)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", reset)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    yield chosen
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


class Objective(nn.Module):
    """A loss around a model, like this project's losses."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(2, 2)


@pytest.mark.parametrize("recipe", ["lora", "qlora_paper", "seam", "distill"])
def test_the_batch_is_for_one_device_however_many_are_visible(recipe, gpus):
    options = compose(f"heal={recipe}", "model=llama2_7b").heal
    micro, accumulation = split_batch(options)
    assert micro * accumulation == options.batch_size


@pytest.mark.parametrize("number", [0, 1])
def test_one_process_trains_on_the_device_that_was_asked_for(number, gpus, tiny_folder, tmp_path):
    config, device = configure(tiny_folder, "lora"), torch.device("cuda", number)
    arguments = training_arguments(config.heal, tmp_path, 0, config.model.dtype, device)
    assert (arguments.n_gpu, arguments.device, gpus[-1]) == (1, device, device)
    assert arguments.train_batch_size == arguments.per_device_train_batch_size
    accelerator = accelerate.Accelerator()
    assert accelerator.device == device  # where batches go

    class Trained:
        args, is_fsdp_xla_enabled = arguments, False

    Trained.accelerator = accelerator
    objective = Objective()
    assert Trainer._wrap_model(Trained(), objective) is objective  # no nn.DataParallel


def test_a_gpu_that_is_not_there(gpus, monkeypatch):
    count = torch.cuda.device_count()
    assert torch_device(f"cuda:{count - 1}") == torch.device("cuda", count - 1)
    with pytest.raises(UserError, match=rf"cuda:{count}: .* from 0 to {count - 1}"):
        torch_device(f"cuda:{count}")
    monkeypatch.setenv("LOCAL_RANK", str(count - 1))
    assert torch_device("cuda") == torch_device("auto") == torch.device("cuda", count - 1)


def test_memory_of_gpus_that_no_one_used_yet(gpus):
    memory.reset_peak(torch.device("cuda"))
    assert memory.peak(torch.device("cuda")) == 0


def test_a_healed_point_whose_distances_are_known(tiny_folder, tmp_path, monkeypatch, gpus):
    """The first thing that it does on the GPU is to heal."""
    base = (
        "model=custom", f"model.path={tiny_folder}", f"runtime.outputs={tmp_path}",
        "data.sequence_length=32", "data.calibration_sequences=8", "data.heldout_sequences=4",
        "eval.limit=2", "eval.tasks=[facts]", "prune.fraction=[0.25]",
    )  # fmt: skip
    pipeline.run(compose(*base, "runtime.device=cpu"))
    monkeypatch.setattr(
        "layerprune.heal.healing.PointHealing.run", lambda _: sys.exit("healing begins")
    )
    with pytest.raises(SystemExit, match="healing begins"):
        pipeline.run(compose(*base, "runtime.device=cuda", "heal=lora", "heal.steps=2"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_healed_model_computes_as_one_that_is_not_healed(dtype, folder_64, tmp_path):
    """With a learning rate of almost 0, both are the same, and their answers bit-identical."""
    overrides = ("heal.learning_rate=1e-30", f"model.dtype={dtype}", "heal.steps=2")
    healed = run(folder_64, tmp_path, "qlora", *overrides).loaded.model
    config = configure(folder_64, "qlora", *overrides)
    source = locate(config.model, tmp_path / "cache")
    unhealed = load(source, config.model.dtype, "cpu", config.healed_quantization).model
    drop_layers(unhealed, PLAN.dropped)
    ids_BT = torch.randint(200, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(healed(ids_BT).logits, unhealed(ids_BT).logits)
    kinds = {part.dtype for part in unhealed.parameters()}
    adapters = {part.dtype for name, part in healed.named_parameters() if "lora_" in name}
    assert {part.dtype for part in healed.parameters()} == kinds | adapters
