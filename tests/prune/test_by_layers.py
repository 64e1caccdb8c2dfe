"""Distances of a model whose layers are read one at a time equal the distances in memory."""

import numpy as np
import pytest
import torch
from tiny import byte_tokenizer, tiny

from layerprune.config.schema import Dtype, ModelConfig, Tokens
from layerprune.model.load import load
from layerprune.model.source import locate
from layerprune.prune import hidden_states as states
from layerprune.prune.hidden_states import mean_distances, states_by_layers
from layerprune.prune.metrics.angular import Angular
from layerprune.shared_forward.memory_budget import MemoryBudget

LAYERS = 8
LAST = Angular(tokens=Tokens.last)
LENGTHS = ([9, 4], [3], [7, 7, 2])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny("llama", vocab_size=259).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    source = locate(ModelConfig(path=str(folder)), tmp_path_factory.mktemp("cache"))
    return [load(source, Dtype.float32, "cpu", None, stream=by).model for by in (False, True)]


def batches():
    generator = torch.Generator().manual_seed(3)
    for lengths in LENGTHS:
        shape = (len(lengths), max(lengths))
        yield torch.randint(3, 259, shape, generator=generator), torch.tensor(lengths)


@pytest.fixture
def announced(monkeypatch):
    said = []
    monkeypatch.setattr(states, "announce_eta", lambda *given, **more: said.append((given, more)))
    return said


TOKENS = sum(len(lengths) * max(lengths) for lengths in LENGTHS)


@pytest.mark.parametrize("tokens", list(Tokens))
@pytest.mark.parametrize("spilled", [False, True])
@pytest.mark.parametrize(
    ("last", "all_", "passes"),
    [(2 * 18, 10 * 18, 3), (2 * 21, 10 * 21, 2), (2 * 42, 10 * 42, 1), (1, 1, 3)],
)
def test_they_are_the_same_however_many_passes_the_room_makes(
    models, announced, tmp_path, tokens, spilled, last, all_, passes
):
    plain, streamed = models
    metric = Angular(tokens=tokens)
    expected = mean_distances(plain, batches(), metric)
    assert announced == []
    waiting = last if tokens is Tokens.last else all_
    memory_budget = MemoryBudget(
        tokens=64, buffered_tokens=waiting, logits=64, spill=tmp_path if spilled else None
    )
    advanced = []
    found = mean_distances(streamed, batches(), metric, advanced.append, memory_budget)
    np.testing.assert_array_equal(found, expected)
    assert sum(advanced) == sum(map(len, LENGTHS))
    (((model, title, paths, given), more),) = announced
    assert (model, title, given) == (streamed, "distances", memory_budget)
    assert paths == [tuple(range(LAYERS))]
    assert more == {"passes": passes, "tokens": TOKENS}


def test_a_room_of_its_own_is_found(models, announced):
    plain, streamed = models
    np.testing.assert_array_equal(
        mean_distances(streamed, batches(), LAST), mean_distances(plain, batches(), LAST)
    )
    ((_, more),) = announced
    assert more["passes"] == 1


@pytest.mark.parametrize("last", [0, 1, 5, LAYERS])
def test_states_come_in_order_up_to_the_last_that_is_asked(models, last):
    plain, streamed = models
    ids = [ids_BT for ids_BT, _ in batches()]
    with torch.inference_mode():
        found = list(states_by_layers(streamed, ids, last, None))
        expected = [plain(each, output_hidden_states=True).hidden_states for each in ids]
    order = []
    for number in range(max(last, 1)):
        for at in range(len(ids)):
            order += [(number, at), *([(last, at)] if number + 1 == last else [])]
    assert [(number, at) for number, at, _ in found] == order
    for number, at, state in found:
        if number < LAYERS:  # the last one is before the final norm, and transformers' after it
            torch.testing.assert_close(state, expected[at][number], atol=0, rtol=0)
