"""Shapes: parameters that are known, and operations that PyTorch counts."""

import pytest
import torch
from tiny import tiny

from layerprune.config.compose import compose
from layerprune.config.schema import Dtype, ShapeFacts
from layerprune.estimate.cost import weight_bytes
from layerprune.estimate.shape import shape_of_facts, shape_of_folder, shape_of_model
from layerprune.evaluate.speed import _costs

PARAMETERS = {  # as the hub's model cards and indices of weights have them
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "mistral_7b": 7_241_732_096,
    "phi2": 2_779_683_840,
    "qwen_7b": 7_721_324_544,
    "qwen_14b": 14_167_290_880,
}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_the_papers_models_have_the_parameters_that_they_are_known_for(name):
    shape = shape_of_facts(compose(f"model={name}").model.shape)
    in_16_bits = weight_bytes(shape, shape.num_layers, Dtype.bfloat16, None)
    assert in_16_bits / 2 == pytest.approx(PARAMETERS[name], rel=1e-3)


def test_the_embedded_models_head_is_its_embedding():
    shape = shape_of_facts(compose().model.shape)
    layers = shape.num_layers * shape.layer_weights
    assert layers + shape.head == pytest.approx(134_515_008, rel=1e-3)


FAMILIES = (
    "falcon", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "olmo2",
    "opt", "phi", "phi3", "qwen3", "starcoder2",
)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_that_are_counted(family):
    model = tiny(family)
    ids_BT = torch.arange(48).view(2, 24)
    _, _, read, written = _costs(model, ids_BT, new_tokens=2)
    # Greedy generation reads logits at the last of a prompt's 24 tokens.
    said = shape_of_model(model).token_flops(8, length=24, logits=1 / 24)
    assert said == pytest.approx(read, rel=0.03)
    # What is written next sees 25 tokens, or the six of a sliding window.
    fewest, most = (shape_of_model(model).token_flops(8, length=seen) for seen in (6, 25))
    assert 0.97 * fewest <= written <= 1.03 * most


def test_a_token_meets_those_experts_alone_that_it_is_sent_to():
    # PyTorch's counter does not know the products of experts.
    model = tiny("mixtral")
    shape = shape_of_model(model)
    experts = 4 * 3 * 32 * 64
    assert shape.layer_weights - shape.active_weights == experts / 2
    assert shape.layer_weights == experts + 32 * (32 + 16 + 16 + 32) + 4 * 32


def test_facts_and_a_folder_give_the_same_shape(tmp_path):
    model = tiny("llama")
    model.config.save_pretrained(tmp_path)
    found = shape_of_folder(tmp_path)
    assert found == shape_of_model(model)
    sizes = {key: getattr(model.config, key) for key in (
        "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
        "num_key_value_heads", "vocab_size",
    )}  # fmt: skip
    assert found == shape_of_facts(ShapeFacts(**sizes))
    assert shape_of_folder(tmp_path / "nothing") is None
