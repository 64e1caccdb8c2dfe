"""Metrics that score single layers, one layer at a time and by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from configs import context, make_metric
from tiny import tiny

from layerprune.config.registry import METRICS
from layerprune.errors import UserError
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import dropped
from layerprune.prune.layer_distances import block_sums, measure_distances
from layerprune.prune.metrics.perplexity import Perplexity
from layerprune.prune.metrics.random import RandomImportance
from layerprune.prune.metrics.taylor import Taylor
from layerprune.shared_forward.memory_budget import MemoryBudget

pytestmark = pytest.mark.quick

IDS = torch.randint(3, 96, (6, 16), generator=torch.Generator().manual_seed(0))


def loss(model, ids=IDS):
    return model(input_ids=ids, labels=ids).loss


def test_blocks_add_up_and_single_layers_are_exact():
    importance = [0.1, -0.2, 1e9, 0.3]
    found = block_sums(importance)
    assert found.shape == (5, 5)
    np.testing.assert_array_equal(found, found.T)
    assert (np.diagonal(found) == 0).all()
    assert np.diagonal(found, offset=1).tolist() == importance
    for start in range(5):
        for end in range(start + 1, 5):
            assert found[start, end] == pytest.approx(sum(importance[start:end]), abs=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_perplexity_is_the_loss_without_each_layer(family):
    model = tiny(family)
    found = Perplexity().importance(context(model, IDS))
    # In less room the same is found, with less at once.
    seen = []
    decoder_stack(model).layers[0].register_forward_pre_hook(
        lambda _module, args, kwargs: seen.append(
            (args[0] if args else kwargs["hidden_states"]).shape[0]
        ),
        with_kwargs=True,
    )
    small = replace(MemoryBudget.of(model), tokens=16, buffered_tokens=16)
    in_small = Perplexity().importance(context(model, IDS, 0, small))
    assert in_small == pytest.approx(found, abs=1e-5)
    assert set(seen) == {1}
    with torch.no_grad():
        dense = loss(model).item()
        for layer in range(8):
            with dropped(model, [layer]):
                assert found[layer] == pytest.approx(loss(model).item() - dense, abs=1e-5)
    assert min(found) < 0, "layers of random weights: some do harm"


def test_taylor_is_the_gradient_of_the_mean_loss_by_weight():
    model = tiny("llama")
    ids = torch.cat([IDS] * 9)  # more than go through at once
    found = Taylor().importance(context(model, ids))
    loss(model, ids).backward()
    expected = [
        sum((weight * weight.grad).abs().sum().item() for weight in layer.parameters())
        for layer in model.model.layers
    ]
    assert found == pytest.approx(expected, rel=1e-4)
    assert min(found) > 0


def test_taylor_leaves_the_model_as_it_was():
    model = tiny("llama")
    frozen = model.model.layers[3].mlp.up_proj.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = {name: value.requires_grad for name, value in model.named_parameters()}
    Taylor().importance(context(model, IDS))
    assert not model.training
    assert not frozen.requires_grad
    for name, value in model.named_parameters():
        assert value.grad is None
        assert value.requires_grad == wanted[name]
        assert torch.equal(value, before[name])


def test_taylor_counts_experts_that_no_token_went_to():
    model = tiny("mixtral")
    found = Taylor().importance(context(model, IDS[:1, :3]))
    assert len(found) == 8
    assert np.isfinite(found).all()


def test_random_follows_its_seed():
    model = tiny("llama")

    def draw(seed, ids=IDS):
        return RandomImportance().importance(context(model, ids, seed))

    assert draw(3) == draw(3, IDS[:1])
    assert draw(3) != draw(4)
    assert len(set(draw(3))) == 8


@pytest.mark.parametrize("name", METRICS.choices())
def test_every_metric_can_be_measured(name):
    found = measure_distances(make_metric(name), context(tiny("llama"), IDS))
    assert found.shape == (9, 9)
    np.testing.assert_allclose(found, found.T, atol=1e-9)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", ["angular", "cka", "perplexity"])
def test_distances_that_are_no_numbers_are_refused(name):
    model = tiny("llama")
    model.model.layers[2].mlp.up_proj.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match=rf"metric={name} .*model\.dtype"):
        measure_distances(make_metric(name), context(model, IDS))
