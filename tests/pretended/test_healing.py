"""Healing, streaming and complete runs on a pretended device give the CPU's results."""

from concurrent.futures import Future

import numpy as np
import pretended
import pytest
import torch
from asked import PAIRS, SMALL, requests
from healing_runs import CUTS, IDS, PLAN
from healing_runs import SMALL as STEPS
from tiny import byte_tokenizer

from layerprune.config.compose import compose
from layerprune.config.schema import Dtype, ModelConfig
from layerprune.data.text import read_text
from layerprune.evaluate.heldout_loss import heldout_loss, heldout_losses
from layerprune.evaluate.scorer import Scorer
from layerprune.heal.healing import PointHealing
from layerprune.model import load as loading
from layerprune.model import offload
from layerprune.model.load import load
from layerprune.model.offload import OffloadPlan, devices, is_offloaded
from layerprune.model.source import locate
from layerprune.model.stack import decoder_stack
from layerprune.run import pipeline
from layerprune.shared_forward.memory_budget import MemoryBudget

PATHS = [tuple(range(8)), (0, 1, 2, 6, 7), (0, 1, 2, 3, 7), (1, 2, 3, 4, 5, 6, 7)]
TRAINED = ("lora", "full", "tail", "distill", "seam", "elastic")


@pytest.fixture(autouse=True)
def no_real_gpu(monkeypatch, device):
    """What only a GPU has: pinned memory, and an answer of whether it computes in bfloat16."""
    from layerprune.heal import healing

    real = healing.training_arguments

    def arguments(*args):
        made = real(*args)
        made.dataloader_pin_memory = False
        return made

    monkeypatch.setattr(healing, "training_arguments", arguments)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)


def on(device, monkeypatch):
    """Let accelerate choose this device, as it would choose a GPU."""
    if device == "cpu":
        monkeypatch.delenv("ACCELERATE_TORCH_DEVICE", raising=False)
    else:
        monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "pretend:0")


def healed(folder, tmp_path, recipe, device, dtype):
    options = () if recipe == "linear" else STEPS
    more = {
        "lora": ("heal.rank=4", "heal.dropout=0"),
        "distill": ("heal.dropout=0",),
        "elastic": ("heal.dropout=0", "heal.rank=4"),
        "seam": ("heal.text_share=0.5",),
        "linear": ("heal.sequences=20", "heal.sequence_length=32"),
    }
    config = compose(
        "model=custom", f"model.path={folder}", f"heal={recipe}", f"model.dtype={dtype}",
        f"runtime.device={device}", *options, *more.get(recipe, ()),
    )  # fmt: skip
    point = tmp_path / device
    source = locate(config.model, tmp_path / "cache")

    def loss(model):
        return heldout_loss(model, IDS, 2**22).nats

    plan, cuts = (CUTS[0], CUTS) if recipe == "elastic" else (PLAN, ())
    made = PointHealing(
        source, plan, read_text(config.data), config, point, point / "checkpoints", loss, cuts=cuts
    ).run()
    model = made.loaded.model
    assert {part.device.type for part in model.parameters()} == {device.partition(":")[0]}
    assert {part.dtype for name, part in model.named_parameters() if "lora_" not in name} == {
        getattr(torch, dtype)
    }
    steps = made.healing.steps
    losses = [step.heldout for step in steps if step.heldout is not None]
    return [*losses, loss(model)], [step.loss for step in steps if step.loss is not None]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("recipe", [*TRAINED, "linear"])
def test_recipes(recipe, dtype, folder_64, tmp_path, monkeypatch):
    found = {}
    for device in ("pretend", "cpu"):
        on(device, monkeypatch)
        found[device] = healed(folder_64, tmp_path, recipe, device, dtype)
    tolerance = 2e-4 if dtype == "float32" else 0.02
    for there, here in zip(found["pretend"], found["cpu"], strict=True):
        assert there == pytest.approx(here, abs=tolerance * max(here, default=1))


def results(model):
    """Answers, losses and distances of some cut models."""
    scorer = Scorer(model, byte_tokenizer(), memory_budget=SMALL, max_length=120, paths=PATHS)
    asked, found = requests(PAIRS), []
    for scorer.path in range(len(PATHS)):
        found += [value for value, _ in scorer.loglikelihood(asked)]
    budget = MemoryBudget(64, 256, 1000)
    return found + [loss.nats for loss in heldout_losses(model, IDS, PATHS, budget)]


@pytest.fixture
def source(folder_64, tmp_path):
    return locate(ModelConfig(path=str(folder_64)), tmp_path / "cache")


@pytest.fixture
def expected(source):
    return results(load(source, Dtype.float32, "cpu").model)


def test_weights_are_loaded_straight_to_the_device(source, expected, monkeypatch):
    moved = []
    monkeypatch.setattr("transformers.PreTrainedModel.to", lambda self, *at: moved.append(at))
    model = load(source, Dtype.float32, "pretend:0").model
    assert {str(weight.device) for weight in model.state_dict().values()} == {"pretend:0"}
    assert not any(hasattr(part, "_hf_hook") for part in model.modules())
    assert not hasattr(model, "hf_device_map")
    assert devices(model) == [torch.device("pretend:0")]
    assert moved == []
    assert results(model) == pytest.approx(expected, rel=1e-4)


def test_streaming(source, expected):
    model = load(source, Dtype.float32, "pretend:0", stream=True).model
    assert is_offloaded(decoder_stack(model).layers)
    assert results(model) == pytest.approx(expected, rel=1e-4)


class InOrder:
    """Runs at once what is to run in a thread: the pretended device is the main thread's."""

    def __init__(self, threads):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, call, *given):
        done = Future()
        done.set_result(call(*given))
        return done


def test_streamed_layers_are_read_into_pinned_memory(source, expected, monkeypatch):
    pinned = []
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self.clone()
    )
    monkeypatch.setattr(offload, "ThreadPoolExecutor", InOrder)
    model = load(source, Dtype.float32, "pretend:0", stream=True).model
    assert results(model) == pytest.approx(expected, rel=1e-4)
    assert {str(tensor.device) for tensor in pinned} == {"cpu"}
    weights = len(list(decoder_stack(model).layers[0].parameters()))
    assert len(pinned) % (7 * weights) == 0  # in each pass over 8 layers all but the first
    assert pinned


def test_a_streamed_layer_that_cannot_be_pinned_is_loaded_without_it(source, expected, monkeypatch):
    def refuse(tensor):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.Tensor, "pin_memory", refuse)
    model = load(source, Dtype.float32, "pretend:0", stream=True).model
    assert results(model) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("first", "second"), [("pretend:0", "pretend:1"), ("pretend:0", "cpu")])
def test_a_model_on_two_devices(first, second, source, expected, monkeypatch):
    places = {
        "model.embed_tokens": first, "model.rotary_emb": first, "model.norm": second,
        "lm_head": second, **{f"model.layers.{at}": (first, second)[at >= 4] for at in range(8)},
    }  # fmt: skip
    if second == "cpu":  # layers are offloaded; the rest runs on the device
        places |= {"model.norm": first, "lm_head": first}
    monkeypatch.setattr(loading, "OffloadPlan", lambda: OffloadPlan(places))
    model = load(source, Dtype.float32, "auto", device_map="auto").model
    assert len(set(devices(model))) == (1 if second == "cpu" else 2)
    assert results(model) == pytest.approx(expected, rel=1e-4)


HEAL = (
    "heal.steps=2", "heal.batch_size=2", "heal.micro_batch_size=1", "heal.sequence_length=32",
    "heal.warmup_steps=1", "heal.eval_every=2", "heal.save_every=1", "prune.fraction=[0.25]",
)  # fmt: skip
CURVE = "prune.fraction=[0,0.25,0.5]"
RUNS = {
    "plain": (CURVE,),
    "greedy": (CURVE, "prune=greedy", "metric=perplexity"),
    "taylor": (CURVE, "metric=taylor"),
    "lora": ("heal=lora", *HEAL, "heal.rank=2", "heal.dropout=0"),
    "seam": ("heal=seam", *HEAL[:-1], "heal.text_share=1", "heal.sequences=4",
             "prune.layers=[3,4]"),
    "speed": (CURVE, "eval=speed", "eval.speed.rounds=1", "eval.speed.prompt_tokens=8",
              "eval.speed.new_tokens=4"),
    "deterministic": (CURVE, "runtime.deterministic=true",),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_whole_run(name, folder_64, tmp_path, monkeypatch):
    points = {}
    for device in ("pretend", "cpu"):
        on(device, monkeypatch)
        config = compose(
            "model=custom", f"model.path={folder_64}", f"runtime.device={device}",
            f"runtime.outputs={tmp_path / device}", *RUNS[name],
            "data.sequence_length=32", "data.calibration_sequences=8", "data.heldout_sequences=4",
            "eval.limit=4", "eval.tasks=[facts]", "eval.num_fewshot=1",
        )  # fmt: skip
        points[device] = pipeline.run(config)
    there, here = points["pretend"], points["cpu"]
    assert [point.provenance.device for point in there] == ["pretend:0"] * len(there)
    assert [point.plan.dropped for point in there] == [point.plan.dropped for point in here]
    losses = ([point.loss.nats for point in of] for of in (there, here))
    np.testing.assert_allclose(*losses, rtol=2e-4)
    assert [point.scores for point in there] == [point.scores for point in here]
    if name == "speed":
        flops = ([point.speed.pruned.flops_per_token for point in of] for of in (there, here))
        np.testing.assert_allclose(*flops)


def test_a_step_of_healing_waits_a_bounded_number_of_times(folder_64, tmp_path, monkeypatch):
    """Not per parameter or token."""
    waits = {}
    for steps in (2, 6):
        pretended.WAITS.clear()
        on("pretend", monkeypatch)
        config = compose(
            "model=custom", f"model.path={folder_64}", "heal=lora", "runtime.device=pretend",
            *HEAL, f"heal.steps={steps}", "heal.eval_every=100", "heal.save_every=100",
        )  # fmt: skip
        folder = tmp_path / str(steps)
        PointHealing(
            locate(config.model, tmp_path / "cache"), PLAN, read_text(config.data), config,
            folder, folder / "checkpoints", lambda _: 1.0,
        ).run()  # fmt: skip
        waits[steps] = sum(pretended.WAITS.values())
    assert (waits[6] - waits[2]) / 4 <= 30, pretended.WAITS
