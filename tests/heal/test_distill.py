"""The teacher is the dense model; each of the three losses equals a naive one."""

import pytest
import torch
from tiny import tiny
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from layerprune.config.compose import compose
from layerprune.errors import UserError
from layerprune.heal.recipes.distill import seams
from layerprune.heal.setup import HealContext
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import drop_layers
from layerprune.prune.plan import Plan

PLAN = Plan("block", 8, (3, 4, 5), 0.1, "a test")
IDS_BT = torch.randint(3, 96, (2, 12), generator=torch.Generator().manual_seed(1))


def prepare(tmp_path, plan=PLAN, **weights):
    overrides = [f"heal.{name}={value}" for name, value in weights.items()]
    options = compose("heal=distill", "heal.rank=4", "heal.dropout=0", *overrides).heal
    return options.prepare(HealContext(tiny("llama"), plan, IDS_BT, tmp_path))


def naive(plan=PLAN):
    """Return the logits of the dense and the pruned model, and their states at the seam."""
    dense, states = tiny("llama"), {}
    student = drop_layers(tiny("llama"), plan.dropped)
    for name, model, layer in (("taught", dense, 6), ("own", student, 3)):
        decoder_stack(model).layers[layer].register_forward_pre_hook(
            lambda _m, args, name=name: states.__setitem__(name, args[0])
        )
    with torch.no_grad():
        logits = [model(IDS_BT, use_cache=False).logits for model in (dense, student)]
    return *logits, states["taught"], states["own"]


def losses():
    taught, own, target, state = naive()
    return {
        "text_weight": cross_entropy(own[:, :-1].flatten(0, 1), IDS_BT[:, 1:].flatten()),
        "logits_weight": kl_div(
            log_softmax(own[:, :-1].flatten(0, 1), -1),
            log_softmax(taught[:, :-1].flatten(0, 1), -1),
            log_target=True,
            reduction="batchmean",
        ),
        "seam_weight": ((state - target).square().sum(-1) / target.square().sum(-1)).mean(),
    }


@pytest.mark.parametrize("only", ["text_weight", "logits_weight", "seam_weight"])
def test_each_loss_equals_a_naive_one(tmp_path, only):
    weights = {"text_weight": 0, "logits_weight": 0, "seam_weight": 0, only: 2.0}
    objective = prepare(tmp_path, **weights).objective
    torch.testing.assert_close(objective(IDS_BT)["loss"].detach(), losses()[only])


def test_losses_are_weighted(tmp_path):
    weights = {"text_weight": 1.0, "logits_weight": 2.0, "seam_weight": 5.0}
    expected = sum(weights[name] * value for name, value in losses().items()) / 8
    found = prepare(tmp_path, **weights).objective(IDS_BT)["loss"]
    torch.testing.assert_close(found.detach(), expected)


def test_the_teacher_learns_nothing(tmp_path):
    setup = prepare(tmp_path, logits_weight=1.0, seam_weight=1.0)
    model = setup.objective.model
    for name, part in model.named_parameters():
        if "lora_B" in name:
            part.data.normal_()
    setup.objective(IDS_BT)["loss"].backward()
    assert all(part.requires_grad == ("lora" in name) for name, part in model.named_parameters())
    with torch.no_grad(), setup.objective._teacher():
        assert len(decoder_stack(model).layers) == 8
        torch.testing.assert_close(model(IDS_BT, use_cache=False).logits, naive()[0])
    assert len(decoder_stack(model).layers) == 5
    graded = [part for name, part in model.named_parameters() if "lora_A" in name]
    assert all(part.grad.abs().sum() > 0 for part in graded)


def test_layers_meet_at_every_gap():
    assert seams(PLAN) == [(3, 6)]
    assert seams(Plan("given", 8, (0, 3, 7), None, "")) == [(0, 1), (2, 4), (5, 8)]
    assert seams(Plan("given", 8, (), None, "")) == []


def test_the_head_is_the_teachers_too(tmp_path):
    options = compose("heal=distill", "heal.targets=[lm_head]").heal
    with pytest.raises(UserError, match=r"heal\.targets"):
        options.prepare(HealContext(tiny("llama"), PLAN, IDS_BT, tmp_path))
