"""The profile against a computation that anyone can check by eye."""

import math

import numpy as np
import pytest
import torch
from tiny import byte_tokenizer, tiny
from torch import nn

import layerprune
from layerprune.config.schema import Tokens
from layerprune.model.stack import decoder_stack
from layerprune.prune.distance_matrix import DistanceMatrix, cached_distance_matrix
from layerprune.prune.hidden_states import mean_distances
from layerprune.prune.metrics.angular import Angular

pytestmark = pytest.mark.quick

TEXTS = ["The quick brown fox", "jumps over", "the lazy dog, and then it sleeps", "ab"]


def naive(model, rows):
    """Gromov et al., section 3.2, one sequence at a time and without padding."""
    total = 0
    for row in rows:
        with torch.inference_mode():
            states = list(model(torch.tensor([row]), output_hidden_states=True).hidden_states)
        x = [state[0, -1].double() for state in states]
        d = [[0.0] * len(x) for _ in x]
        for i in range(len(x)):
            for j in range(len(x)):
                cosine = float(x[i] @ x[j] / (x[i].norm() * x[j].norm()))
                d[i][j] = math.acos(max(-1.0, min(1.0, cosine))) / math.pi
        total = total + np.array(d)
    return total / len(rows)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "falcon", "opt"])
def test_equals_the_naive_computation(family):
    model = tiny(family, vocab_size=259)
    # transformers gives the last state after the final norm; without the norm it is the layer's.
    decoder = decoder_stack(model).decoder
    names = [name for name, _ in decoder.named_children()]
    norm = next(name for name in reversed(names) if "norm" in name or name == "ln_f")
    tokenizer = byte_tokenizer()
    actual = layerprune.profile(model, tokenizer, TEXTS, batch_size=3)
    setattr(decoder, norm, nn.Identity())
    expected = naive(model, [tokenizer(text)["input_ids"] for text in TEXTS])
    assert actual.shape == (9, 9)
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert actual[0, 8] > 0.05, "states that differ, or this shows nothing"


def test_last_state_is_before_the_final_norm():
    model = tiny("llama", vocab_size=259)
    before = layerprune.profile(model, byte_tokenizer(), TEXTS)
    with torch.no_grad():  # a norm that turns states around changes nothing
        model.model.norm.weight.copy_(torch.linspace(-3, 3, 32))
    np.testing.assert_array_equal(layerprune.profile(model, byte_tokenizer(), TEXTS), before)


def test_head_is_never_run():
    model = tiny("llama", vocab_size=259)
    model.lm_head.register_forward_hook(lambda *_: pytest.fail("the head was run"))
    layerprune.profile(model, byte_tokenizer(), TEXTS)


def test_texts_weigh_the_same_whatever_the_batches():
    model, tokenizer = tiny("llama", vocab_size=259), byte_tokenizer()
    one = layerprune.profile(model, tokenizer, TEXTS, batch_size=1)
    all_at_once = layerprune.profile(model, tokenizer, TEXTS, batch_size=4)
    np.testing.assert_allclose(one, all_at_once, atol=1e-6)


def test_truncated_texts_count_their_last_kept_token():
    model, tokenizer = tiny("llama", vocab_size=259), byte_tokenizer()
    long = layerprune.profile(model, tokenizer, ["abcdefgh", "xy"], max_length=4)
    short = layerprune.profile(model, tokenizer, ["abcd", "xy"])
    np.testing.assert_allclose(long, short, atol=1e-7)


def test_no_text_is_refused(tiny_llama):
    for texts in ([], ["", "a"]):
        with pytest.raises(ValueError, match="at least one"):
            layerprune.profile(tiny_llama, byte_tokenizer(), texts)
    with pytest.raises(ValueError, match="no sequence"):
        mean_distances(tiny_llama, [], Angular(tokens=Tokens.last))


def test_kept_and_measured_again_only_when_damaged(tmp_path):
    calls = []

    def measure():
        calls.append(1)
        return DistanceMatrix("k", {"text": "t"}, 2, [[0.0, 0.1], [0.1, 0.0]])

    first = cached_distance_matrix(tmp_path, "k", measure)
    assert cached_distance_matrix(tmp_path, "k", measure) == first
    assert len(calls) == 1
    for damage in ("", "{", '{"key": "k"}', '{"key":"other","depends_on":{},"num_sequences":1,'
                   '"distances":[[0.0]]}', "[]"):  # fmt: skip
        (tmp_path / "k.json").write_text(damage)
        assert cached_distance_matrix(tmp_path, "k", measure) == first
    assert len(calls) == 6
    assert [path.name for path in tmp_path.glob("*.json") if path.name[0] != "."] == ["k.json"]
