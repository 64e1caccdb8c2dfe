"""Metrics, plans, losses and answers on a pretended device equal the CPU's."""

import copy

import numpy as np
import pretended
import pytest
import torch
from asked import PAIRS, SMALL, requests
from families import TINY
from tiny import byte_tokenizer, tiny

from layerprune.config.compose import compose
from layerprune.config.registry import METRICS
from layerprune.evaluate.heldout_loss import heldout_losses
from layerprune.evaluate.scorer import Scorer
from layerprune.prune import lazy_greedy
from layerprune.prune.layer_distances import measure_distances
from layerprune.prune.metrics import MetricContext
from layerprune.prune.removal_order import RemovalOrder
from layerprune.shared_forward.memory_budget import MemoryBudget

PATHS = [
    tuple(layer for layer in range(8) if layer not in dropped)
    for dropped in ([], [7], [0], [3, 4], [2, 3, 4, 5], [1, 5])
]
IDS = torch.randint(259, (8, 12), generator=torch.Generator().manual_seed(1))


def pair(family, device, dtype=torch.float32):
    """The same model on the CPU and on the device."""
    model = tiny(family, vocab_size=259).to(dtype)
    return model, copy.deepcopy(model).to(device)


def assert_near(actual, expected, tolerance=1e-4):
    actual, expected = np.asarray(actual, dtype=float), np.asarray(expected, dtype=float)
    assert np.abs(actual - expected).max() <= tolerance * max(1, np.abs(expected).max())


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mixtral"])
@pytest.mark.parametrize("name", sorted(METRICS.choices()))
def test_metrics(name, family, device):
    options = compose(f"metric={name}").metric
    found = [
        measure_distances(options, MetricContext(model, IDS, 0, MemoryBudget.of(model, 2**22)))
        for model in pair(family, device)
    ]
    assert_near(found[1], found[0])


@pytest.mark.parametrize("sequences", [0, 2, 8])
def test_greedy_keeps_the_states_of_the_first_shares_on_the_device_as_far_as_they_fit(
    sequences, device, monkeypatch
):
    made, real = [], lazy_greedy.Candidates
    monkeypatch.setattr(
        lazy_greedy, "Candidates", lambda *given: made.append(real(*given)) or made[-1]
    )
    orders, budget = [], MemoryBudget(1024, sequences * 7 * IDS.shape[1], 2**20)
    for model in pair("llama", device):
        orders.append(RemovalOrder("key", {}))
        lazy_greedy.extend_lazily(model, IDS, orders[-1], 5, budget)
    assert orders[1].layers == orders[0].layers
    assert_near(orders[1].costs, orders[0].costs)
    on_device = 0
    for share, batches in zip(made[1].shares, made[1]._entering, strict=True):
        on_device += len(share)
        kept_on = {state.device.type for _, *states in batches for state in states}
        assert kept_on == {pretended.NAME if on_device <= sequences else "cpu"}


@pytest.mark.parametrize("family", sorted(TINY))
def test_losses(family, device):
    cpu, there = (
        [loss.nats for loss in heldout_losses(model, IDS, PATHS, MemoryBudget.of(model, 2**22))]
        for model in pair(family, device)
    )
    assert_near(there, cpu)


def answers(model, budget=SMALL):
    scorer = Scorer(model, byte_tokenizer(), memory_budget=budget, max_length=120, paths=PATHS)
    asked, found = requests(PAIRS), []
    for scorer.path in range(len(PATHS)):
        found += [value for value, _ in scorer.loglikelihood(asked)]
    return found, scorer


@pytest.mark.parametrize("family", sorted(TINY))
def test_answers(family, device):
    cpu, there = pair(family, device)
    expected, scorer = answers(cpu)
    found, other = answers(there)
    assert_near(found, expected)
    assert other._branching is scorer._branching


def test_answers_in_16_bits(device):
    cpu, there = pair("llama", device, torch.bfloat16)
    assert_near(answers(there)[0], answers(cpu)[0], 0.05)


def test_a_pass_waits_for_the_device_a_few_times_per_batch_and_path(device):
    """Not per token, option or layer: a GPU runs ahead of the host meanwhile."""
    _, there = pair("llama", device)
    _, scorer = answers(there)
    pretended.WAITS.clear()
    batches = {"count": 0}
    real = scorer._batches

    def counted(chunk):
        made = real(chunk)
        batches["count"] += len(made)
        return made

    scorer._batches = counted
    scorer._keys.clear()
    scorer._answers.clear()
    scorer.loglikelihood(requests(PAIRS))
    of_project = {line: count for line, count in pretended.WAITS.items() if ".py" in line}
    of_batches = sum(count for line, count in of_project.items() if "token_tree_batch" in line)
    assert batches["count"] > 3
    assert of_batches <= batches["count"] * (8 + 2 * len(PATHS)), of_project
    others = sum(of_project.values()) - of_batches
    assert others <= 2 * batches["count"] * len(PATHS), of_project


def test_the_loss_of_each_path_is_read_once_per_batch(device):
    _, there = pair("llama", device)
    pretended.WAITS.clear()
    heldout_losses(there, IDS, PATHS, MemoryBudget(2 * 12, 10**6, 10**6))
    batches, waits = 4, sum(pretended.WAITS.values())
    assert len(PATHS) * batches <= waits <= 3 * len(PATHS) * batches, pretended.WAITS


def test_the_device_refuses_what_cuda_refuses(device):
    there, here = torch.ones(3, device=device), torch.ones(3)
    with pytest.raises(pretended.MixedDevicesError):
        there + here
    with pytest.raises(pretended.MixedDevicesError):
        there + torch.ones(3, device="pretend:1")
    with pytest.raises(TypeError, match=r"use \.cpu\(\) first"):
        there.numpy()
    assert pretended.WAITS == {}
    assert (there * 2).sum().item() == 6
    assert (there + torch.tensor(1.0)).cpu().tolist() == [2, 2, 2]
    assert sum(pretended.WAITS.values()) == 2
    changed = there.cpu()
    changed += 1
    assert there.tolist() == [1, 1, 1]  # another device has other memory
