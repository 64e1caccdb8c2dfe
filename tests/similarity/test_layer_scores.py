"""Metrics that score single layers, one layer at a time and by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny

from layerprune.config.schema import METRIC_KEYS, MetricConfig, Tokens
from layerprune.errors import UserError
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import dropped
from layerprune.paths.room import Room
from layerprune.similarity.layer_scores import LAYER_SCORES, added_up
from layerprune.similarity.measure import measure
from layerprune.similarity.metrics import METRICS
from layerprune.similarity.perplexity import perplexity
from layerprune.similarity.random import random
from layerprune.similarity.taylor import taylor

IDS = torch.randint(3, 96, (6, 16), generator=torch.Generator().manual_seed(0))


def loss(model, ids=IDS):
    return model(input_ids=ids, labels=ids).loss


def test_every_metric_is_known_to_the_configuration_by_the_keys_it_reads():
    assert {name for name, keys in METRIC_KEYS.items() if "tokens" in keys} == set(METRICS)
    assert {name for name, keys in METRIC_KEYS.items() if not keys} == set(LAYER_SCORES)


def test_blocks_add_up_and_single_layers_are_exact():
    importance = [0.1, -0.2, 1e9, 0.3]
    found = added_up(importance)
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
    found = perplexity(model, IDS, seed=0)
    # In less room the same is found, with less at once.
    seen = []
    decoder_stack(model).layers[0].register_forward_pre_hook(
        lambda _module, args, kwargs: seen.append(
            (args[0] if args else kwargs["hidden_states"]).shape[0]
        ),
        with_kwargs=True,
    )
    small = replace(Room.of(model), tokens=16, waiting=16)
    assert perplexity(model, IDS, 0, small) == pytest.approx(found, abs=1e-5)
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
    found = taylor(model, ids, seed=0)
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
    taylor(model, IDS, seed=0)
    assert not model.training
    assert not frozen.requires_grad
    for name, value in model.named_parameters():
        assert value.grad is None
        assert value.requires_grad == wanted[name]
        assert torch.equal(value, before[name])


def test_taylor_counts_experts_that_no_token_went_to():
    found = taylor(tiny("mixtral"), IDS[:1, :3], seed=0)
    assert len(found) == 8
    assert np.isfinite(found).all()


def test_random_follows_its_seed():
    model = tiny("llama")
    assert random(model, IDS, seed=3) == random(model, IDS[:1], seed=3)
    assert random(model, IDS, seed=3) != random(model, IDS, seed=4)
    assert len(set(random(model, IDS, seed=3))) == 8


@pytest.mark.parametrize("name", sorted(METRIC_KEYS))
def test_every_metric_can_be_measured(name):
    tokens = Tokens.all if METRIC_KEYS[name] else None
    found = measure(tiny("llama"), MetricConfig(name=name, tokens=tokens), IDS, seed=0)
    assert found.shape == (9, 9)
    np.testing.assert_allclose(found, found.T, atol=1e-9)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", ["angular", "cka", "perplexity"])
def test_distances_that_are_no_numbers_are_refused(name):
    model = tiny("llama")
    model.model.layers[2].mlp.up_proj.weight.data.fill_(float("nan"))
    tokens = Tokens.all if METRIC_KEYS[name] else None
    with pytest.raises(UserError, match=rf"metric={name} .*model\.dtype"):
        measure(model, MetricConfig(name=name, tokens=tokens), IDS, seed=0)
