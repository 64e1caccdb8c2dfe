"""Weights in four bits compute, and pass gradients on, as the numbers they stand for."""

import bitsandbytes
import pytest
import torch
from tiny import byte_tokenizer, tiny

from layerprune.config.schema import Dtype, ModelConfig, Quantization
from layerprune.model.load import load
from layerprune.model.source import locate

IDS_BT = torch.randint(0, 200, (2, 24), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def source(tmp_path):
    model = tiny("llama", vocab_size=259, hidden_size=64, intermediate_size=128)
    model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return locate(ModelConfig(path=str(tmp_path / "model")), tmp_path / "cache")


def plain(source, quantised):
    """The same model with each 4-bit weight written out in float32."""
    model = load(source, Dtype.float32, "cpu").model
    for name, part in quantised.named_modules():
        if isinstance(part, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(part.weight, part.weight.quant_state)
            model.get_submodule(name).weight.data.copy_(weight)
    return model


def gradient(model):
    model.requires_grad_(False)
    embedded = model.get_input_embeddings()(IDS_BT).detach().requires_grad_(True)
    model.train()
    model(inputs_embeds=embedded, labels=IDS_BT).loss.backward()
    return embedded.grad


def test_gradients_are_right_after_the_model_was_asked(source):
    quantised = load(source, Dtype.float32, "cpu", Quantization.nf4).model
    reference = plain(source, quantised)
    with torch.inference_mode():
        actual, expected = quantised(IDS_BT).logits, reference(IDS_BT).logits
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradient(quantised), gradient(reference), atol=1e-6, rtol=1e-3)
