"""Layers that go one at a time, against the algorithm that measures everything."""

import itertools
import json

import pytest
import torch
from configs import context, make_metric
from tiny import tiny

from layerprune.config.registry import METRICS
from layerprune.config.schema import Tokens
from layerprune.errors import UserError
from layerprune.model.stack import decoder_stack
from layerprune.prune.lazy_greedy import Candidates, extend_lazily
from layerprune.prune.metrics import TokenMetric
from layerprune.prune.metrics.perplexity import Perplexity
from layerprune.prune.removal_order import RemovalOrder, cached_removal_order
from layerprune.prune.strategies.greedy import Greedy, extend_by_measuring
from layerprune.prune.target import Target
from layerprune.shared_forward.losses import sequence_losses
from layerprune.shared_forward.memory_budget import MemoryBudget

PERPLEXITY = Perplexity()


def own_text(model, count, length):
    """Token ids [count, length] drawn from the model itself. It can't do better on any text, so
    removing layers costs something, like in a trained model."""
    ids = torch.randint(3, 96, (count, 1), generator=torch.Generator().manual_seed(0))
    dice = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        while ids.shape[1] < length:
            chance = torch.softmax(model(ids).logits[:, -1], dim=-1)
            ids = torch.cat([ids, torch.multinomial(chance, 1, generator=dice)], dim=1)
    return ids.clone()


def uneven(family="llama", **changes):
    """A model of 16 layers, of which some do more than others."""
    model = tiny(family, num_hidden_layers=16, **changes)
    dice = torch.Generator().manual_seed(5)
    for layer in decoder_stack(model).layers:
        scale = 0.1 + 0.5 * torch.rand(1, generator=dice).item() ** 2
        for name, weight in layer.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "c_proj.weight")):
                weight.data *= scale
    return model


def mean_loss(model, ids, gone):
    path = tuple(
        layer for layer in range(len(decoder_stack(model).layers)) if layer not in gone
    )  # fmt: skip
    (found,) = sequence_losses(model, ids, [path], "loss", MemoryBudget.of(model))
    return sum(found) / len(found)


def naive_order(model, ids, count):
    """SLEB, algorithm 1: before each layer that goes, the loss without each that is left."""
    left = list(range(len(decoder_stack(model).layers)))
    gone = []
    for _ in range(count):
        paths = [tuple(other for other in left if other != layer) for layer in left]
        loss = dict(
            zip(
                left,
                map(sum, sequence_losses(model, ids, paths, "loss", MemoryBudget.of(model))),
                strict=True,
            )
        )
        gone.append(min(left, key=lambda layer: (loss[layer], -layer)))
        left.remove(gone[-1])
    return gone


def lazy_order(model, ids, count):
    order = RemovalOrder("k", {})
    extend_lazily(model, ids, order, count)
    return order


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_lazy_is_as_good_as_measuring_everything_for_a_fraction_of_its_runs(family):
    model = uneven(family)
    ids = own_text(model, 32, 20)
    order = lazy_order(model, ids, 8)
    naive = naive_order(model, ids, 8)
    dense = mean_loss(model, ids, [])
    ours, theirs = (mean_loss(model, ids, layers) - dense for layers in (order.layers, naive))
    assert family != "llama" or set(order.layers) == set(naive), "costs that only rise"
    assert ours < theirs + 0.05, "in nats; layers whose cost fell as others went are seen late"
    everything = sum(left * (left - 1) for left in range(16, 8, -1))
    assert order.layer_runs[-1] < everything / 5


def test_costs_and_losses_are_those_of_the_models_that_are_left():
    model = uneven()
    ids = own_text(model, 12, 16)
    order = lazy_order(model, ids, 5)
    so_far = [mean_loss(model, ids, order.layers[:count]) for count in range(6)]
    rises = [after - before for before, after in itertools.pairwise(so_far)]
    assert order.costs == pytest.approx(rises, abs=1e-5)
    assert sum(order.losses) / len(ids) == pytest.approx(so_far[-1], abs=1e-5)


def test_without_a_race_the_first_layer_is_the_one_that_costs_least(monkeypatch):
    monkeypatch.setattr("layerprune.prune.lazy_greedy.STRIDES", (1,))
    model = tiny("llama")
    ids = own_text(model, 9, 16)
    order = lazy_order(model, ids, 1)
    cost = PERPLEXITY.importance(context(model, ids))
    assert order.layers == [cost.index(min(cost))]
    # The dense model once; then the layers above each candidate, and for the last the one below.
    assert order.layer_runs == [8 + sum(range(8)) + 1]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen3", "falcon", "opt"])
def test_losses_without_a_layer_are_those_of_the_cut_model(family):
    model = tiny(family)
    ids = torch.randint(3, 96, (11, 12), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        candidates = Candidates(model, ids, removed=[5])
        for gone, left in (([5], [7, 0, 3, 1]), ([5, 2], [0, 7, 6]), ([5, 2, 0], [1, 7])):
            if gone[-1] in candidates.remaining:
                candidates.remove(gone[-1])
            for share, numbers in enumerate(candidates.shares):
                for layer in (None, *left):
                    found = candidates.losses(share, layer)
                    path = tuple(
                        each for each in range(8) if each not in gone and each != layer
                    )  # fmt: skip
                    (expected,) = sequence_losses(
                        model, ids[numbers], [path], "loss", MemoryBudget.of(model)
                    )
                    assert found == pytest.approx(expected, abs=1e-5)
    everyone = sorted(number for share in candidates.shares for number in share)
    assert everyone == list(range(11))


def test_all_layers_but_one_can_go():
    model = tiny("llama")
    ids = own_text(model, 3, 12)
    order = lazy_order(model, ids, 7)
    assert len(set(order.layers)) == 7


def test_an_order_goes_on_as_if_it_had_never_stopped(tmp_path):
    model = uneven()
    ids = own_text(model, 12, 16)
    asked = []

    def more(order, count):
        asked.append((len(order.layers), count))
        Greedy().extend(order, count, PERPLEXITY, context(model, ids))

    def stored(count):
        return cached_removal_order(tmp_path, "k", {"text": "t"}, count, more)

    short = stored(3)
    assert stored(2) == short
    long = stored(9)
    assert asked == [(0, 3), (3, 9)]
    assert [path.name for path in tmp_path.glob("*.json")] == ["order-k.json"]
    at_once = lazy_order(model, ids, 9)
    assert long.layers == at_once.layers
    assert long.layers[:3] == short.layers
    assert long.costs == pytest.approx(at_once.costs, abs=1e-9)
    for damage in ("{", json.dumps({"key": "other", "depends_on": {}})):
        (tmp_path / "order-k.json").write_text(damage)
        assert stored(3) == short


@pytest.mark.parametrize("name", METRICS.choices())
def test_every_metric_gives_an_order(name):
    model = tiny("llama")
    ids = torch.randint(3, 96, (6, 16), generator=torch.Generator().manual_seed(0))
    metric = make_metric(name)
    order = RemovalOrder("k", {})
    Greedy().extend(order, 3, metric, context(model, ids))
    assert len(set(order.layers)) == 3
    assert len(order.costs) == 3
    assert len(decoder_stack(model).layers) == 8
    if isinstance(metric, TokenMetric):
        assert order.layer_runs == [8, 8 + 7, 8 + 7 + 6], "one pass a step"
    if name == "random":
        assert order.layer_runs == [0, 0, 0]


def test_the_metric_is_measured_again_on_what_is_left():
    model = tiny("llama")
    ids = torch.randint(3, 96, (6, 16), generator=torch.Generator().manual_seed(0))
    order = RemovalOrder("k", {})
    extend_by_measuring(order, 4, PERPLEXITY, context(model, ids))
    assert order.layers == naive_order(model, ids, 4)


def test_equal_layers_go_from_the_deepest():
    model = tiny("llama")
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    ids = torch.randint(3, 96, (6, 16), generator=torch.Generator().manual_seed(0))
    for metric in (PERPLEXITY, make_metric("angular", Tokens.last)):
        order = RemovalOrder("k", {})
        Greedy().extend(order, 3, metric, context(model, ids))
        assert order.layers == [7, 6, 5]


def test_a_plan_is_the_beginning_of_an_order():
    order = RemovalOrder("k", {}, [5, 2, 4], [0.25, 0.5, 1.0], [10.0, 15.0, 18.5])
    plan = Greedy().plan(Target(0.25, 2), order, 8)
    assert (plan.strategy, plan.dropped, plan.score) == ("greedy", (2, 5), 0.75)
    assert plan.reason.startswith("5, 2: one at a time")
    assert "15.0 layer runs" in plan.reason
    assert Greedy().plan(Target(0, 0), order, 8).dropped == ()
    assert Greedy().plan(Target(0.25, 2, (1, 6)), order, 8).strategy == "given"


def test_losses_that_are_no_numbers_are_refused():
    model = tiny("llama")
    model.model.layers[2].mlp.up_proj.weight.data.fill_(float("nan"))
    ids = torch.randint(3, 96, (6, 16), generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=r"loss is not a number.*model\.dtype"):
        lazy_order(model, ids, 2)
