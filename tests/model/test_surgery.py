"""A cut model equals the same model with the cut layers made the identity."""

import copy
import subprocess
import sys

import pytest
import torch
from families import TINY
from safetensors.torch import load_file, save_file
from tiny import tiny
from torch import nn
from transformers import AutoModelForCausalLM

from layerprune.model.stack import Head, UnsupportedArchitecture, decoder_stack
from layerprune.model.surgery import VERIFIED, drop_layers, dropped

CUTS = [[0, 1], [2, 3, 4], [6], [1, 4, 6]]
IDS_BT = torch.randint(3, 96, (2, 21), generator=torch.Generator().manual_seed(7))


class Identity(nn.Module):
    """A layer that hands its input on, in the form that the layer it replaces would use."""

    def __init__(self, layer: nn.Module, returns_tuple: bool) -> None:
        super().__init__()
        self.returns_tuple = returns_tuple
        # Some decoders look at the layer itself to choose its mask.
        for name in ("attention_type", "layer_type"):
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))

    def forward(self, hidden_states, *args, **kwargs):
        return (hidden_states,) if self.returns_tuple else hidden_states


def with_identities(model, layers):
    """The oracle: nothing about the model changes but what the layers compute."""
    oracle = copy.deepcopy(model)
    stack = decoder_stack(oracle)
    kinds = []
    hook = stack.layers[0].register_forward_hook(
        lambda _module, _args, output: kinds.append(isinstance(output, tuple))
    )
    oracle(IDS_BT)
    hook.remove()
    for layer in layers:
        stack.layers[layer] = Identity(stack.layers[layer], kinds[0])
    return oracle


def logits(model, ids=IDS_BT, **kwargs):
    with torch.inference_mode():
        return model(ids, **kwargs).logits


def test_every_verified_family_is_tested():
    assert set(TINY) == VERIFIED


@pytest.mark.parametrize("layers", CUTS, ids=str)
@pytest.mark.parametrize("family", sorted(TINY))
def test_equals_the_model_with_identities(family, layers):
    model = tiny(family)
    expected = logits(with_identities(model, layers), use_cache=False)
    dense = logits(model)
    assert drop_layers(model, layers) is model
    actual = logits(model, use_cache=False)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert (actual - dense).abs().max() > 1e-2, "the cut layers must matter for this to mean much"


@pytest.mark.parametrize("layers", CUTS, ids=str)
@pytest.mark.parametrize("family", sorted(TINY))
def test_cache_agrees_with_no_cache(family, layers):
    model = drop_layers(tiny(family), layers)
    full = logits(model, use_cache=False)
    with torch.inference_mode():
        run = model(IDS_BT[:, :15], use_cache=True)
        steps = [run.logits]
        for at in range(15, IDS_BT.shape[1]):
            run = model(IDS_BT[:, at : at + 1], past_key_values=run.past_key_values)
            steps.append(run.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), full, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", sorted(TINY))
def test_saved_and_loaded_again(family, tmp_path):
    model = drop_layers(tiny(family), [2, 3, 4])
    model.save_pretrained(tmp_path)
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(logits(again), logits(model), atol=1e-6, rtol=1e-6)


def test_saved_model_needs_nothing_of_this_project(tmp_path):
    model = drop_layers(tiny("gemma3_text"), [2, 3, 4])
    model.save_pretrained(tmp_path / "cut")
    save_file({"logits": logits(model)}, tmp_path / "expected.safetensors")
    program = f"""
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "cut")!r}).eval()
ids = torch.tensor({IDS_BT.tolist()})
with torch.inference_mode():
    actual = model(ids).logits
torch.testing.assert_close(actual, load_file({str(tmp_path / "expected.safetensors")!r})["logits"])
assert not any(name.startswith("layerprune") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


@pytest.mark.parametrize("family", sorted(TINY))
def test_dropping_in_two_steps_is_dropping_at_once(family):
    once = drop_layers(tiny(family), [2, 3, 6])
    twice = drop_layers(drop_layers(tiny(family), [6]), [2, 3])
    torch.testing.assert_close(logits(twice), logits(once), atol=0, rtol=0)
    assert once.config.to_dict() == twice.config.to_dict()


@pytest.mark.parametrize("family", sorted(TINY))
def test_the_block_leaves_the_model_as_it_was(family):
    model = tiny(family)
    before, config = logits(model), copy.deepcopy(model.config.to_dict())
    with dropped(model, [2, 3, 4]):
        assert len(decoder_stack(model).layers) == 5
    assert torch.equal(logits(model), before)
    assert model.config.to_dict() == config
    with dropped(model, []):
        assert torch.equal(logits(model), before)


@pytest.mark.parametrize("family", sorted(TINY))
def test_head_on_chosen_positions_equals_the_model(family):
    model = tiny(family)
    with torch.inference_mode():
        hidden_BTH = model.get_decoder()(input_ids=IDS_BT, use_cache=False).last_hidden_state
        actual = Head(model)(hidden_BTH[:, [3, 20]].flatten(0, 1))
    expected = logits(model)[:, [3, 20]].flatten(0, 1)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(logits(model), logits(model)), "the model runs as before"


def test_unverified_and_impossible_cuts_are_refused_unchanged(tiny_llama):
    before = logits(tiny_llama)
    for layers, message in (([8], "0 to 7"), ([-1], "0 to 7"), (list(range(8)), "at least one")):
        with pytest.raises(ValueError, match=message):
            drop_layers(tiny_llama, layers)
    with pytest.raises(ValueError, match="distinct"):
        drop_layers(tiny_llama, [1, 1])
    tiny_llama.config.model_type = "unheard_of"
    with pytest.raises(UnsupportedArchitecture, match="unheard_of"):
        drop_layers(tiny_llama, [1])
    assert torch.equal(logits(tiny_llama), before)
    scaled = tiny("gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(UnsupportedArchitecture, match="scale_attn_by_inverse_layer_idx"):
        drop_layers(scaled, [1])


def test_weights_are_not_touched(tiny_llama, tmp_path):
    names = dict(tiny_llama.named_parameters())
    kept = {name.replace("layers.5.", "layers.3."): value.clone() for name, value in names.items()
            if "layers.5." in name}  # fmt: skip
    drop_layers(tiny_llama, [2, 3])
    after = dict(tiny_llama.named_parameters())
    for name, value in kept.items():
        assert torch.equal(after[name], value)
    tiny_llama.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) <= set(tiny_llama.state_dict())
