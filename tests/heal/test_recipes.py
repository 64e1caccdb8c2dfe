"""Each recipe on a tiny model: what is trained, what is left alone, what is kept."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch
from architectures import tiny_architecture
from families import TINY
from healing_runs import IDS, TRAINED, changed, configure, cut, run, weights
from peft import PeftModel
from safetensors.torch import load_file
from tiny import tiny

from layerprune.config.registry import RECIPES
from layerprune.errors import UserError
from layerprune.evaluate.heldout_loss import heldout_loss
from layerprune.heal.losses import NextToken
from layerprune.heal.setup import Examples, TrainingSetup
from layerprune.heal.trainer import training_arguments
from layerprune.model.stack import feed_forward_names
from layerprune.prune.plan import Plan
from layerprune.runtime.atomic_files import CHECKSUMS, read_checksummed, write_checksums


@pytest.mark.parametrize("recipe", TRAINED)
def test_training_lowers_the_loss_and_says_what_it_cost(folder_64, tmp_path, recipe):
    healed = run(folder_64, tmp_path, recipe)
    healing = healed.healing
    first, *trained = healing.steps
    assert healing.recipe == recipe
    assert [step.step for step in healing.steps] == [0, 1, 2, 3, 4, 5, 6]
    assert [step.step for step in healing.steps if step.heldout is not None] == [0, 3, 6]
    assert healing.tokens == 6 * 4 * 32
    assert healing.seconds > 0
    assert healing.seconds == pytest.approx(sum(step.seconds for step in trained), abs=1e-3)
    peaks = [step.peak_memory_bytes for step in trained]
    assert peaks == sorted(peaks)
    assert peaks[-1] == healing.peak_memory_bytes > 0
    assert healing.trainable_parameters > 0
    assert (healing.heldout_before, healing.heldout_after) == (first.heldout, trained[-1].heldout)
    if recipe == "seam":  # it aims at the dense model's states, which mean nothing in this one
        assert trained[-1].loss < trained[0].loss
    else:
        assert healing.heldout_after < healing.heldout_before
    # warm-up, then a cosine to nothing
    rates = [step.learning_rate for step in trained]
    assert max(rates) == pytest.approx(1e-2)
    assert rates[-1] < rates[1]


def test_a_recipe_that_trains_nothing_says_so(tiny_folder, tmp_path, monkeypatch):
    def prepare(_options, context):
        context.model.requires_grad_(False)
        return TrainingSetup(NextToken(context.model), Examples(context.ids_ST))

    monkeypatch.setattr(RECIPES["full"], "prepare", prepare)
    with pytest.raises(UserError, match="heal=full trains no weight"):
        run(tiny_folder, tmp_path, "full")


def test_the_asked_model_is_the_trained_one(tiny_folder, tmp_path):
    healed = run(tiny_folder, tmp_path, "lora")
    after = heldout_loss(healed.loaded.model, IDS, 4).nats
    assert after == pytest.approx(healed.healing.heldout_after, abs=1e-6)
    assert not healed.loaded.model.training


def test_distilling_goes_without_a_seam_where_nothing_is_dropped(tiny_folder, tmp_path):
    healed = run(tiny_folder, tmp_path, "distill", plan=Plan("block", 8, (), None, "a test"))
    assert [step.step for step in healed.healing.steps] == [0, 1, 2, 3, 4, 5, 6]


def test_a_seam_that_is_not_there_is_nothing_to_learn_from(tiny_folder, tmp_path):
    alone = ("heal.logits_weight=0", "heal.text_weight=0")
    with pytest.raises(UserError, match="there is no seam to learn from"):
        run(tiny_folder, tmp_path, "distill", *alone, plan=Plan("block", 8, (), None, "a test"))


def test_the_loss_is_that_of_transformers_where_a_decoder_is_its_head_by_name():
    model = tiny_architecture("modernbert-decoder")
    assert not hasattr(model.get_decoder(), "layers")
    ids = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model(ids, labels=ids).loss
        assert torch.allclose(NextToken(model)(ids)["loss"], wanted)


def test_lora_leaves_every_weight_as_it_was(tiny_folder, tmp_path):
    assert changed(tiny_folder, tmp_path, "lora") == set()


def test_full_changes_every_weight(tiny_folder, tmp_path):
    assert changed(tiny_folder, tmp_path, "full") == set(weights(cut(tiny_folder, tmp_path)))


def test_tail_changes_the_head_the_norm_and_the_last_layers(tiny_folder, tmp_path):
    names = changed(tiny_folder, tmp_path, "tail", "heal.last_layers=2")
    assert {"lm_head.weight", "model.norm.weight"} <= names
    assert {name.split(".")[2] for name in names if ".layers." in name} == {"3", "4"}
    assert "model.embed_tokens.weight" not in names


def test_the_adapter_is_kept_with_the_layers_it_belongs_to(tiny_folder, tmp_path):
    healed = run(tiny_folder, tmp_path, "lora")
    kept = json.loads((tmp_path / "point" / "adapter" / "layerprune.json").read_text())
    assert kept == {"num_layers": 8, "kept": [0, 1, 2, 6, 7], "dropped": [3, 4, 5]}
    again = PeftModel.from_pretrained(cut(tiny_folder, tmp_path), tmp_path / "point" / "adapter")
    assert heldout_loss(again.base_model.model.eval(), IDS, 4).nats == pytest.approx(
        healed.healing.heldout_after, abs=1e-6
    )
    names = load_file(tmp_path / "point" / "adapter" / "adapter_model.safetensors")
    assert all(".mlp." in name for name in names)
    assert len(names) == 5 * 3 * 2  # layers, projections, two matrices each
    assert scale(tmp_path) == (4, 4)


def scale(tmp_path):
    """Rank and alpha of an adapter."""
    adapter = json.loads((tmp_path / "point" / "adapter" / "adapter_config.json").read_text())
    return adapter["r"], adapter["lora_alpha"]


def test_alpha_may_differ_from_the_rank(tiny_folder, tmp_path):
    run(tiny_folder, tmp_path, "lora", "heal.alpha=8")
    assert scale(tmp_path) == (4, 8)


def test_strength_interpolates_between_the_weights_before_and_after(tiny_folder, tmp_path):
    healed = {
        strength: run(tiny_folder, tmp_path / strength, "lora", f"heal.strength={strength}")
        for strength in ("1", "0.5", "0.001")
    }
    unhealed, trained = (cut(tiny_folder, tmp_path), healed["1"].adapted.merge_and_unload())
    half = healed["0.5"].adapted.merge_and_unload()
    for name, before in weights(unhealed).items():
        after = dict(trained.named_parameters())[name]
        between = dict(half.named_parameters())[name]
        assert torch.allclose(between, (before + after) / 2, atol=1e-6)
    losses = {strength: one.healing.heldout_after for strength, one in healed.items()}
    assert losses["0.001"] == pytest.approx(heldout_loss(unhealed, IDS, 4).nats, abs=1e-3)
    assert losses["1"] == healed["1"].healing.steps[-1].heldout
    assert losses["0.5"] == pytest.approx(heldout_loss(half, IDS, 4).nats, abs=1e-6)


def test_what_was_kept_of_a_lost_record_is_replaced(tiny_folder, tmp_path):
    for recipe, kept in (("lora", "adapter/adapter_model.safetensors"),
                         ("tail", "weights/weights.safetensors")):  # fmt: skip
        file = tmp_path / recipe / "point" / kept
        run(tiny_folder, tmp_path / recipe, recipe)
        before = file.read_bytes()
        shutil.rmtree(tmp_path / recipe / "point" / "checkpoints")
        run(tiny_folder, tmp_path / recipe, recipe, "heal.learning_rate=1e-3")
        assert file.read_bytes() != before


def test_targets_by_name(tiny_folder, tmp_path):
    run(tiny_folder, tmp_path, "lora", "heal.targets=[q_proj]")
    names = load_file(tmp_path / "point" / "adapter" / "adapter_model.safetensors")
    assert all("q_proj" in name for name in names)
    with pytest.raises(UserError, match=r"heal\.targets: nonsense"):
        run(tiny_folder, tmp_path, "lora", "heal.targets=[nonsense]")


def losses(healed):
    return [(step.loss, step.heldout) for step in healed.healing.steps]


def test_the_same_seed_gives_the_same_training(tiny_folder, tmp_path):
    first = run(tiny_folder, tmp_path / "a", "lora")
    second = run(tiny_folder, tmp_path / "b", "lora")
    other = run(tiny_folder, tmp_path / "c", "lora", "seed=1")
    assert losses(first) == losses(second)
    assert losses(first) != losses(other)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["lora", "full", "elastic"])
def test_killed_and_started_again_ends_with_the_same_weights(tiny_folder, tmp_path, recipe):
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[1] / "helpers")!r})
from pathlib import Path
import torch
torch.set_num_threads(1)
import healing_runs
measured = []
def dies(model, ids, batch_size):
    measured.append(1)
    if len(measured) == 3:  # before training, after step 3, after step 6
        os.kill(os.getpid(), signal.SIGKILL)
    return type("Loss", (), {{"nats": 1.0}})
healing_runs.heldout_loss = dies
healing_runs.run({str(tiny_folder)!r}, Path({str(tmp_path / "killed")!r}), {recipe!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    there = sorted(path.name for path in (tmp_path / "killed/point/checkpoints").iterdir())
    assert there == ["checkpoint-2", "checkpoint-4"]
    # a checkpoint that was being written when the process ended
    torn = tmp_path / "killed/point/checkpoints/checkpoint-6"
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"global_step": 6, "epo')

    resumed = run(tiny_folder, tmp_path / "killed", recipe)
    whole = run(tiny_folder, tmp_path / "whole", recipe)
    ours, theirs = weights(resumed.loaded.model), weights(whole.loaded.model)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    losses = [[step.loss for step in healed.healing.steps] for healed in (resumed, whole)]
    assert losses[0] == losses[1]
    assert resumed.healing.heldout_after == whole.healing.heldout_after


class Evil:
    """Pickled, it is a call of the one who unpickles it."""

    def __init__(self, ran):
        self.ran = ran

    def __reduce__(self):
        return (Path.touch, (self.ran,))


def test_pickles_in_a_checkpoint_are_read_as_data(tiny_folder, tmp_path, monkeypatch):
    measured, measure = [], heldout_loss

    def stops(model, ids, batch_size):
        measured.append(1)
        if len(measured) == 3:  # before training, after step 3, after step 6
            raise KeyboardInterrupt
        return measure(model, ids, batch_size)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("healing_runs.heldout_loss", stops)
        run(tiny_folder, tmp_path, "lora")
    checkpoint = tmp_path / "point" / "checkpoints" / "checkpoint-4"
    pickles = [path for path in checkpoint.iterdir() if path.suffix in (".pt", ".pth", ".bin")]
    assert {path.name for path in pickles} >= {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    for path in pickles:
        torch.save(Evil(tmp_path / "ran"), path)
    names = list(read_checksummed(checkpoint / CHECKSUMS))
    write_checksums(checkpoint, names)  # whoever may write there can do that too
    with pytest.raises(UnpicklingError, match="Weights only load failed"):
        run(tiny_folder, tmp_path, "lora")
    assert not (tmp_path / "ran").exists()


def test_micro_batches_change_rounding_alone(tiny_folder, tmp_path):
    whole = run(tiny_folder, tmp_path / "a", "full", "heal.micro_batch_size=4")
    parts = run(tiny_folder, tmp_path / "b", "full", "heal.micro_batch_size=1")
    for one, other in zip(whole.healing.steps[1:], parts.healing.steps[1:], strict=True):
        assert one.loss == pytest.approx(other.loss, abs=2e-3)


def test_a_loss_that_explodes_stops_with_step_and_rate(tiny_folder, tmp_path):
    with pytest.raises(UserError, match=r"not a number at step \d+, learning rate"):
        run(tiny_folder, tmp_path, "full", "heal.learning_rate=1e30", "heal.max_grad_norm=1e30")


def test_the_paged_optimiser_is_for_gpus(tiny_folder, tmp_path):
    config = configure(tiny_folder, "qlora")
    on_gpu, on_cpu = (
        training_arguments(config.heal, tmp_path, 0, config.model.dtype, torch.device(device)).optim
        for device in ("meta", "cpu")
    )
    assert (on_gpu, on_cpu) == ("paged_adamw_32bit", "adamw_torch")


def test_weights_sharded_by_accelerate_are_refused(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match=r"runtime\.shard=true"):
        run(tiny_folder, tmp_path, "lora")


def test_batches_that_do_not_divide_are_refused(tiny_folder, tmp_path):
    with pytest.raises(UserError, match="no multiple"):
        run(tiny_folder, tmp_path, "full", "heal.batch_size=5")


@pytest.mark.parametrize("family", sorted(set(TINY) - {"mixtral"}))
def test_feed_forward_projections_are_found_by_structure(family):
    names = feed_forward_names(tiny(family))
    assert len(names) in (16, 24)  # two or three in each of eight layers
    assert not any(part in name for name in names for part in ("attn", "attention", "q_proj"))


def test_fused_experts_are_refused_by_name():
    with pytest.raises(UserError, match=r"mixtral.*heal\.targets"):
        feed_forward_names(tiny("mixtral"))


def test_a_plateau_stops_and_stays_stopped(tiny_folder, tmp_path):
    # With a rate of next to nothing the held-out loss stays where it is.
    still = ("heal.stop_when=plateau", "heal.eval_every=1", "heal.learning_rate=1e-12")
    healed = run(tiny_folder, tmp_path, "full", *still)
    healing = healed.healing
    assert healing.stopped == "plateau"
    assert healing.steps[-1].step == 3  # measured at 0, then three times without a gain
    assert healing.tokens == 3 * 4 * 32
    # Killed between its last step and its record, it does not begin again.
    again = run(tiny_folder, tmp_path, "full", *still)
    assert again.healing.steps == healing.steps
    whole = run(tiny_folder, tmp_path / "other", "full", "heal.stop_when=plateau")
    assert whole.healing.stopped is None
    assert whole.healing.steps[-1].step == 6


def test_bfloat16_weights_are_trained_in_float32(tiny_folder, tmp_path):
    small = ("model.dtype=bfloat16", "heal.learning_rate=1e-5", "heal.eval_every=6")
    healed = run(tiny_folder, tmp_path, "full", *small)
    assert {part.dtype for part in healed.loaded.model.parameters()} == {torch.bfloat16}
    checkpoint = tmp_path / "point" / "checkpoints" / "checkpoint-6" / "trained.safetensors"
    saved = load_file(checkpoint)
    assert {part.dtype for part in saved.values()} == {torch.float32}
    before = weights(cut(tiny_folder, tmp_path))
    name = "model.layers.0.mlp.up_proj.weight"
    change = (saved[f"model.{name}"] - before[name].to(torch.bfloat16).float()).abs()
    assert 0 < change.max() < 1e-4, "in bfloat16 such a step would be lost"
