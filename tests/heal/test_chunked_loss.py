"""Losses a chunk at a time are the losses, and the gradients, of all positions at once."""

from functools import partial

import pytest
import torch
from families import TINY
from tiny import tiny

from layerprune.heal import losses
from layerprune.heal.losses import NextToken
from layerprune.model.stack import Head

IDS_BT = torch.randint(3, 96, (3, 17), generator=torch.Generator().manual_seed(1))


def five_positions_at_a_time(monkeypatch):
    monkeypatch.setattr(losses, "Head", partial(Head, logits_at_once=96 * 5))


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {
        name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None
    }


@pytest.mark.parametrize("family", sorted(set(TINY) - {"mixtral"}))
def test_equals_the_familys_own_loss_and_gradients(family, monkeypatch):
    five_positions_at_a_time(monkeypatch)
    model = tiny(family)
    own = model(input_ids=IDS_BT, labels=IDS_BT, use_cache=False).loss
    ours = NextToken(model)(IDS_BT)["loss"]
    torch.testing.assert_close(ours, own, atol=1e-5, rtol=1e-5)
    theirs, found = gradients(model, own), gradients(model, NextToken(model)(IDS_BT)["loss"])
    assert theirs.keys() == found.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_without_gradients_the_loss_is_the_same():
    model = tiny("llama")
    with torch.no_grad():
        plain = NextToken(model)(IDS_BT)["loss"]
    torch.testing.assert_close(plain, NextToken(model)(IDS_BT)["loss"].detach())


def test_logits_are_never_there_all_at_once(monkeypatch):
    five_positions_at_a_time(monkeypatch)
    model = tiny("llama")
    sizes = []
    model.lm_head.register_forward_hook(lambda _m, _a, output: sizes.append(output.numel()))
    NextToken(model)(IDS_BT)["loss"].backward()
    assert len(sizes) == 10  # 48 positions
    assert max(sizes) == 96 * 5
