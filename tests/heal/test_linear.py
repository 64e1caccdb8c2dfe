"""The least-squares map against numpy, and where it cannot be folded."""

import numpy as np
import pytest
import torch
from architectures import tiny_architecture
from families import TINY
from tiny import tiny

from layerprune.errors import UserError
from layerprune.heal.linear_map import fit, fold
from layerprune.model.stack import decoder_stack, feed_forward_projections
from layerprune.model.surgery import drop_layers
from layerprune.prune.plan import Plan

pytestmark = pytest.mark.quick

PLAN = Plan("block", 8, (3, 4), 0.1, "a test")
IDS_ST = torch.randint(3, 96, (40, 24), generator=torch.Generator().manual_seed(5))


def states(model, ids):
    """What layer 2's last projection reads, layer 2's output, and layer 4's output."""
    seen = {}
    layers = decoder_stack(model).layers
    layers[2].mlp.down_proj.register_forward_pre_hook(
        lambda _m, args: seen.__setitem__("a", args[0].detach().double())
    )
    for name, module in (("x", layers[2]), ("y", layers[4])):
        module.register_forward_hook(
            lambda _m, _a, output, name=name: seen.__setitem__(name, output.detach().double())
        )
    with torch.inference_mode():
        model(ids, use_cache=False)
    return [seen[name].flatten(0, 1).numpy() for name in "axy"]


def test_equals_ridge_regression():
    found = fit(tiny("llama"), PLAN, IDS_ST)
    a, x, y = states(tiny("llama"), IDS_ST[:32])  # the last fifth chooses the ridge
    a, d = (part / np.linalg.norm(y, axis=1, keepdims=True) for part in (a, y - x))
    strength = found.ridge * np.mean((a**2).sum(axis=0))
    expected = np.linalg.solve(a.T @ a + strength * np.eye(64), a.T @ d)
    np.testing.assert_allclose(found.change.numpy(), expected, rtol=1e-4, atol=1e-6)
    a, x, y = states(tiny("llama"), IDS_ST[32:])
    a, d = (part / np.linalg.norm(y, axis=1, keepdims=True) for part in (a, y - x))
    explained = 1 - ((d - a @ expected) ** 2).sum() / (d**2).sum()
    assert found.explained == pytest.approx(explained, abs=1e-5)
    assert found.tokens == IDS_ST.numel()


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "opt", "gpt_neox", "starcoder2"])
def test_folding_adds_the_map_to_what_is_written(family):
    model = tiny(family)
    found = fit(model, PLAN, IDS_ST)
    before = output_of_layer_2(model)
    fold(model, PLAN, found)
    after, read = output_of_layer_2(model), read_in_layer_2(tiny(family))
    if len(found.change) > read.shape[-1]:  # the projection has a bias
        read = torch.cat([read, torch.ones_like(read[..., :1])], dim=-1)
    expected = before + read @ found.change
    torch.testing.assert_close(after.double(), expected.double(), atol=1e-4, rtol=1e-4)


def output_of_layer_2(model):
    seen = []
    decoder_stack(model).layers[2].register_forward_hook(
        lambda _m, _a, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.inference_mode():
        model(IDS_ST[:2], use_cache=False)
    return seen[0].clone()


def read_in_layer_2(model):
    projection = [part for _, part in feed_forward_projections(decoder_stack(model).layers[2])][-1]
    seen = []
    projection.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.inference_mode():
        model(IDS_ST[:2], use_cache=False)
    return seen[0].double().view(2, 24, -1)


def test_the_cut_model_comes_nearer_to_the_whole_one():
    whole = tiny("llama", initializer_range=0.08)
    plain = drop_layers(tiny("llama", initializer_range=0.08), PLAN.dropped)
    healed = tiny("llama", initializer_range=0.08)
    found = fit(healed, PLAN, IDS_ST)
    fold(drop_layers(healed, PLAN.dropped), PLAN, found)
    fresh = torch.randint(3, 96, (8, 24), generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        target = whole(fresh).logits
        assert (healed(fresh).logits - target).norm() < (plain(fresh).logits - target).norm()


@pytest.mark.parametrize("family", sorted(TINY))
def test_is_folded_only_where_a_layer_simply_adds(family):
    model = tiny(family)
    adds = {"falcon", "gemma", "gpt2", "gpt_neox", "llama", "mistral", "opt", "phi", "phi3",
            "qwen2", "qwen3", "smollm3", "starcoder2", "cohere2"}  # fmt: skip
    if family in adds:
        assert fit(model, PLAN, IDS_ST).tokens > 0
    else:
        with pytest.raises(UserError, match="heal=linear"):
            fit(model, PLAN, IDS_ST)


def test_a_gate_is_nothing_to_fold_into():
    """The last projection by name of a layer's feed-forward part may write a number a token."""
    model = tiny_architecture("qwen2_moe")
    assert hasattr(decoder_stack(model).layers[5].mlp, "shared_expert_gate")
    with pytest.raises(UserError, match="heal=linear"):
        fit(model, Plan("block", 8, (6,), 0.1, "a test"), IDS_ST)


def test_plans_that_are_no_block_with_a_layer_before_it_are_refused():
    for dropped, message in (((1, 3), "one block"), ((0, 1), "before the block")):
        with pytest.raises(UserError, match=message):
            fit(tiny("llama"), Plan("given", 8, dropped, None, ""), IDS_ST)
