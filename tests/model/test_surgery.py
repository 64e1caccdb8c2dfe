"""A cut model equals the same model with the cut layers made the identity."""

import subprocess
import sys

import pytest
import torch
from equalities import CUTS, IDS_BT, logits, verdicts
from families import TINY
from safetensors.torch import load_file, save_file
from tiny import tiny

from layerprune.model.stack import Head, UnsupportedArchitecture, decoder_stack
from layerprune.model.surgery import Cut, drop_layers, dropped
from layerprune.model.verified import VERIFIED


def test_families_that_other_tests_use_are_verified():
    assert set(TINY) <= VERIFIED


@pytest.mark.parametrize("layers", CUTS, ids=str)
@pytest.mark.parametrize("family", sorted(TINY))
def test_every_equality_holds(family, layers, tmp_path):
    assert verdicts(tiny(family), tmp_path, [layers]) == {str(layers): "equal"}


def test_a_cut_is_whole_for_a_while(tiny_llama):
    before = logits(tiny_llama)
    cut = Cut(tiny_llama, [2, 3])
    without = logits(tiny_llama)
    with cut.whole():
        assert torch.equal(logits(tiny_llama), before)
    assert torch.equal(logits(tiny_llama), without)
    assert len(decoder_stack(tiny_llama).layers) == 6
    with dropped(tiny_llama, []):
        assert torch.equal(logits(tiny_llama), without)


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
def test_head_on_chosen_positions_equals_the_model(family):
    model = tiny(family)
    with torch.inference_mode():
        decoder = decoder_stack(model).decoder
        hidden_BTH = decoder(input_ids=IDS_BT, use_cache=False).last_hidden_state
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
