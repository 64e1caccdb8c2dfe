"""Steps that begin at the seam compute what the whole cut model would."""

import pytest
import torch
from families import TINY
from tiny import byte_tokenizer, tiny

from layerprune.config.compose import compose
from layerprune.config.schema import Dtype, ModelConfig
from layerprune.errors import UserError
from layerprune.heal.setup import HealContext
from layerprune.model.load import load
from layerprune.model.source import locate
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import drop_layers
from layerprune.prune.plan import Plan
from layerprune.run.pipeline import run
from layerprune.shared_forward.losses import sequence_losses
from layerprune.shared_forward.memory_budget import MemoryBudget

PLAN = Plan("block", 8, (3, 4), 0.1, "a test")
IDS_ST = torch.randint(3, 96, (5, 17), generator=torch.Generator().manual_seed(1))


def prepare(model, folder, plan=PLAN, **options):
    overrides = [f"heal.{name}={value}" for name, value in options.items()]
    return compose("heal=seam", *overrides).heal.prepare(HealContext(model, plan, IDS_ST, folder))


def batch(setup):
    rows = [setup.examples[index] for index in range(len(setup.examples))]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def input_of(model, slot):
    seen = []
    layer = decoder_stack(model).layers[slot]
    layer.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    with torch.no_grad():
        model(IDS_ST, use_cache=False)
    return seen[0]


@pytest.mark.parametrize("family", sorted(TINY))
def test_equals_the_pruned_model(family, tmp_path):
    setup = prepare(tiny(family), tmp_path, seam_layers=2, text_weight=0, seam_weight=1)
    # Layers 5 and 6 are trained, as slots 3 and 4; what they put out is the input of slot 5.
    own = input_of(drop_layers(tiny(family), PLAN.dropped), 5)
    target = input_of(tiny(family), 7)
    expected = ((own - target).square().sum(-1) / target.square().sum(-1)).mean()
    torch.testing.assert_close(setup.objective(**batch(setup))["loss"].detach(), expected)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "cohere2"])
@pytest.mark.parametrize(("layers", "share", "rows"), [(1, 1, 5), (1, 0.4, 2), (3, 0.2, 1)])
def test_text_loss_runs_every_layer_above(family, layers, share, rows, tmp_path):
    setup = prepare(
        tiny(family), tmp_path, seam_layers=layers, text_weight=1, text_share=share, seam_weight=0,
        batch_size=5, micro_batch_size=5,
    )  # fmt: skip
    assert set(batch(setup)) == {"input_ids", "entering"}
    plain = drop_layers(tiny(family), PLAN.dropped)
    ids = IDS_ST[:rows]
    own = plain(input_ids=ids, labels=ids, use_cache=False).loss
    torch.testing.assert_close(setup.objective(**batch(setup))["loss"], own, atol=1e-5, rtol=1e-5)


def test_only_the_layers_above_the_cut_are_trained(tmp_path):
    model = tiny("llama")
    setup = prepare(model, tmp_path, seam_layers=2)
    setup.objective(**batch(setup))["loss"].backward()
    trained = {name.split(".")[2] for name, part in model.named_parameters() if part.requires_grad}
    assert trained == {"3", "4"}
    graded = {name for name, part in model.named_parameters() if part.grad is not None}
    assert graded == {name for name, part in model.named_parameters() if part.requires_grad}
    assert len(decoder_stack(model).layers) == 6  # whole again after each step


def test_states_are_computed_once_and_kept_in_the_models_precision(tmp_path):
    model = tiny("llama").to(torch.bfloat16)
    setup = prepare(model, tmp_path)
    files = sorted((tmp_path / "states").glob("state-*"))
    assert [file.name for file in files] == ["state-3.bin", "state-8.bin"]
    assert all(file.stat().st_size == IDS_ST.numel() * 32 * 2 for file in files)
    before = [file.stat().st_mtime_ns for file in files]
    again = prepare(tiny("llama").to(torch.bfloat16), tmp_path)
    assert [file.stat().st_mtime_ns for file in files] == before
    for name, value in batch(setup).items():
        assert torch.equal(batch(again)[name], value)
    assert batch(setup)["entering"].dtype is torch.bfloat16


@pytest.mark.parametrize(("dropped", "message"), [((1, 3), "one block"), ((6, 7), "are none")])
def test_plans_without_a_seam_are_refused(tmp_path, dropped, message):
    with pytest.raises(UserError, match=message):
        prepare(tiny("llama"), tmp_path, Plan("given", 8, dropped, None, ""))


def test_disk_that_is_too_small_is_named_before_anything_is_written(tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "free")(free=100)
    monkeypatch.setattr("layerprune.heal.state_cache.shutil.disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"GiB of states.*heal\.sequences"):
        prepare(tiny("llama"), tmp_path / "point")
    assert not list((tmp_path / "point").iterdir())


def streamed(family, folder):
    tiny(family).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    source = locate(ModelConfig(path=str(folder)), folder.parent / "cache")
    return load(source, Dtype.float32, "cpu", stream=True).model


@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral"])
def test_layers_below_the_seam_are_not_loaded(family, tmp_path):
    """Their states are computed layer by layer; the trained weights are bit-identical."""
    models = {"plain": tiny(family), "streamed": streamed(family, tmp_path / "model")}
    losses, weights = {}, {}
    for name, model in models.items():
        setup = prepare(model, tmp_path / name, seam_layers=2, text_weight=1, text_share=1,
                      seam_weight=1, batch_size=5, micro_batch_size=5)  # fmt: skip
        loss = setup.objective(**batch(setup))["loss"]
        loss.backward()
        losses[name] = loss.item()
        weights[name] = {
            name: part.grad for name, part in model.named_parameters() if part.requires_grad
        }
    layers = decoder_stack(models["streamed"]).layers
    wait = [any(part.is_meta for part in layer.parameters()) for layer in layers]
    assert wait == [True] * 3 + [False] * 3, "layers 0 to 2 below the seam, 5 to 7 above it"
    assert losses["streamed"] == pytest.approx(losses["plain"], rel=1e-6)
    assert weights["streamed"].keys() == weights["plain"].keys()
    for name, grad in weights["plain"].items():
        torch.testing.assert_close(weights["streamed"][name], grad, atol=1e-6, rtol=1e-5)
    # Asked afterwards, what waits is read for the pass, and what was trained is there.
    with torch.no_grad():
        for model in models.values():
            for part in model.parameters():
                if part.requires_grad:
                    part.add_(0.01)
    found, expected = (
        sequence_losses(model, IDS_ST, [tuple(range(6))], "", MemoryBudget.of(model))
        for model in (models["streamed"], models["plain"])
    )
    assert found[0] == pytest.approx(expected[0], rel=1e-5)


@pytest.mark.slow
def test_a_run_whose_lower_layers_stay_on_disk(tiny_folder, tiny_tasks, tmp_path):
    def points(outputs, *overrides):
        return run(compose(
            "model=custom", f"model.path={tiny_folder}", "eval.tasks=[letters]",
            f"eval.include_path={tiny_tasks}",
            "eval.trust_task_code=true", f"runtime.outputs={tmp_path / outputs}",
            "tracker=disabled", "data.sequence_length=32", "data.calibration_sequences=8",
            "data.heldout_sequences=4", "prune.fraction=[0.25]", "heal=seam", "heal.steps=4",
            "heal.batch_size=4", "heal.micro_batch_size=2", "heal.sequence_length=32",
            "heal.warmup_steps=1", "heal.learning_rate=1e-3", "heal.text_share=0.5", *overrides,
        ))  # fmt: skip

    (plain,), (kept,) = points("plain"), points("streamed", "runtime.stream=true", "export=hf")
    assert kept.key == plain.key
    assert kept.plan.dropped == plain.plan.dropped
    assert kept.scores == plain.scores
    assert kept.loss.nats == pytest.approx(plain.loss.nats, abs=1e-4)
    for one, other in zip(kept.healing.steps, plain.healing.steps, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-4)
