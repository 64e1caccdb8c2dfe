"""A cut model equals the same model with the cut layers made the identity."""

import copy
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from architectures import tiny_architecture
from equalities import CUTS, IDS_BT, logits, verdicts
from families import TINY
from safetensors.torch import load_file, save_file
from tiny import tiny

from layerprune.model.stack import Head, UnsupportedArchitecture, decoder_stack
from layerprune.model.surgery import ReversibleCut, drop_layers, dropped, limited_to
from layerprune.model.verified import VERIFIED


def test_families_that_other_tests_use_are_verified():
    assert set(TINY) <= VERIFIED


@pytest.mark.parametrize("layers", CUTS, ids=str)
@pytest.mark.parametrize("family", sorted(TINY))
def test_every_equality_holds(family, layers, tmp_path):
    assert verdicts(tiny(family), tmp_path, [layers]) == {str(layers): "equal"}


def test_a_pruned_model_is_dense_for_a_while(tiny_llama):
    before = logits(tiny_llama)
    cut = ReversibleCut(tiny_llama, [2, 3])
    assert cut.model is tiny_llama
    without, config = logits(tiny_llama), copy.deepcopy(tiny_llama.config.to_dict())
    for _ in range(2):
        with cut.dense() as model:
            assert model is tiny_llama
            assert torch.equal(logits(model), before)
        assert torch.equal(logits(tiny_llama), without)
        assert tiny_llama.config.to_dict() == config
    assert len(decoder_stack(tiny_llama).layers) == 6
    with dropped(tiny_llama, []):
        assert torch.equal(logits(tiny_llama), without)


def test_a_pruned_model_can_be_saved_after_it_was_dense():
    """Fields that only matter while a model is built describe the pruned model again."""
    model = tiny_architecture("qwen3_moe", decoder_sparse_step=3, mlp_only_layers=[2])
    cut = ReversibleCut(model, [1, 4])
    described = model.config.mlp_only_layers, model.config.decoder_sparse_step
    assert described == ([0, 1, 2, 4, 5], 1)
    with cut.dense():
        assert (model.config.mlp_only_layers, model.config.decoder_sparse_step) == ([2], 3)
    assert (model.config.mlp_only_layers, model.config.decoder_sparse_step) == described


def test_a_model_limited_to_a_path_has_its_layers_only(tiny_llama):
    layers = list(decoder_stack(tiny_llama).layers)
    with limited_to(tiny_llama, (0, 2, 7)) as model:
        assert model is tiny_llama
        assert list(decoder_stack(model).layers) == [layers[0], layers[2], layers[7]]
        assert model.config.num_hidden_layers == 3
    assert list(decoder_stack(tiny_llama).layers) == layers


def test_a_verified_model_does_not_run_to_be_cut(tiny_llama):
    tiny_llama.register_forward_hook(lambda *_: pytest.fail("it ran"))
    drop_layers(tiny_llama, [1])


def test_a_cut_that_cannot_be_saved_is_made_for_a_while_only():
    model = tiny_architecture("jamba")
    layers, config = list(decoder_stack(model).layers), model.config.to_dict()
    with dropped(model, [2, 3, 4]):
        assert len(decoder_stack(model).layers) == 5
    with pytest.raises(UnsupportedArchitecture, match="expert_layer_period"):
        drop_layers(model, [2, 3, 4])
    assert (list(decoder_stack(model).layers), model.config.to_dict()) == (layers, config)


def test_a_cut_that_its_configuration_does_not_describe_is_undone():
    model = tiny_architecture("diffllama")  # a number of its layers depends on their index
    before, layers = logits(model), list(decoder_stack(model).layers)
    config, indices = model.config.to_dict(), [layer.self_attn.layer_idx for layer in layers]
    with pytest.raises(UnsupportedArchitecture, match=r"without layers \[2\].*lambda_init"):
        drop_layers(model, [2])
    assert list(decoder_stack(model).layers) == layers
    assert model.config.to_dict() == config
    assert [layer.self_attn.layer_idx for layer in layers] == indices
    assert torch.equal(logits(model), before)


def test_every_copy_of_the_configuration_follows_and_no_other(tiny_llama):
    copied, other = copy.deepcopy(tiny_llama.config), copy.deepcopy(tiny_llama.config)
    other.num_hidden_layers = 3  # of something else
    tiny_llama.model.config = copied
    tiny_llama.model.norm.config = other
    rope = tiny_llama.config.rope_parameters
    with dropped(tiny_llama, [2, 3]):
        assert (tiny_llama.config.num_hidden_layers, copied.num_hidden_layers) == (6, 6)
        assert other.num_hidden_layers == 3
        assert tiny_llama.config.rope_parameters is rope, "what is equal stays the same object"
    assert (tiny_llama.config.num_hidden_layers, copied.num_hidden_layers) == (8, 8)
    assert other.num_hidden_layers == 3


@pytest.mark.parametrize("config", [None, SimpleNamespace()], ids=["none", "without a count"])
def test_only_indices_of_the_own_layer_change_by_any_name(tiny_llama, config):
    tiny_llama.model.config = config
    if config is None:
        del tiny_llama.model.config
    part = decoder_stack(tiny_llama).layers[5].mlp
    part.layer_number, part.layer_id = 5, 11  # the layer's index, and another number
    with dropped(tiny_llama, [2, 3]):
        assert (part.layer_number, part.layer_id) == (3, 11)
    assert (part.layer_number, part.layer_id) == (5, 11)


def test_indices_of_layers_with_two_attentions_each():
    """Keys and values of layer n are numbers 2n and 2n + 1 of the cache."""
    model = tiny_architecture("longcat_flash")
    layers = decoder_stack(model).layers
    with dropped(model, [0, 3]):
        indices = [[part.layer_idx for part in layer.self_attn] for layer in layers]
        assert indices == [[2 * slot, 2 * slot + 1] for slot in range(6)]
        assert all(type(index) is int for pair in indices for index in pair)
        assert [layer.layer_idx for layer in layers] == list(range(6))
    assert [layer.self_attn[1].layer_idx for layer in layers] == list(range(1, 17, 2))


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
    for layers, message in (
        ([9, 8, 8, 0], r"layers \[8, 9\] do not exist: this model has layers 0 to 7\."),
        ([-1], r"layers \[-1\] do not exist: this model has layers 0 to 7\."),
        ([2, 1, 1], r"layers \[1, 1, 2\] are not distinct\."),
        (list(range(8)), r"all 8 layers would be removed: at least one must remain\."),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            drop_layers(tiny_llama, layers)
    for model_type, reason in (("unheard_of", ""), ("blt", ": its layers are spread over four .*")):
        tiny_llama.config.model_type = model_type
        with pytest.raises(UnsupportedArchitecture, match=(
            f"^{model_type}: dropping layers has not been verified for this model type{reason}"
            r"\. docs/architectures\.md lists the verified ones\.$"
        )):  # fmt: skip
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
