"""The scorer's answers are lm-eval's own, request by request."""

import math

import pytest
import torch
from families import TINY
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tiny import byte_tokenizer, tiny

from layerprune.evaluate.heldout_loss import heldout_loss
from layerprune.evaluate.scorer import Scorer
from layerprune.evaluate.token_tree_batch import supports_tree_attention
from layerprune.model.surgery import drop_layers
from layerprune.shared_forward.memory_budget import MemoryBudget

FLOAT32 = 7e-7
"""Six steps of float32: a sum of -100 nats is not known to 1e-5."""

SMALL = MemoryBudget(tokens=64, buffered_tokens=256, logits=1000)

PAIRS = [
    ("Question: what?\nAnswer:", " yes"),
    ("Question: what?\nAnswer:", " no"),
    ("Question: what?\nAnswer:", " a longer answer, of several words"),
    ("Question: why?\nAnswer:", " b"),
    ("Question: why?\nAnswer:", " b"),  # the same request twice
    ("", "no context at all"),
    ("one", "x"),
    ("a context that ends in a blank ", "word"),
    ("long " * 40, " and the end of it"),  # longer than the window below
    ("Question: who?\nAnswer:", " " + "z" * 30),
]


def requests(pairs):
    return [Instance("loglikelihood", {}, arguments=pair, idx=at) for at, pair in enumerate(pairs)]


def equals_hflm(model, tokenizer):
    """The answers to all `PAIRS` are those of lm-eval's own backend."""
    expected = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=100)
    actual = Scorer(model, tokenizer, memory_budget=SMALL, max_length=100)
    for (value, greedy), (wanted, wanted_greedy) in zip(
        actual.loglikelihood(requests(PAIRS)),
        expected.loglikelihood(requests(PAIRS), disable_tqdm=True),
        strict=True,
    ):
        assert value == pytest.approx(wanted, abs=1e-5, rel=FLOAT32)
        assert greedy == wanted_greedy


@pytest.mark.parametrize("layers", [[], [2, 3, 4]], ids=["dense", "cut"])
@pytest.mark.parametrize("family", sorted(TINY))
def test_equals_hflm(family, layers):
    model = drop_layers(tiny(family, vocab_size=259), layers)
    tokenizer = byte_tokenizer()
    equals_hflm(model, tokenizer)


def test_greedy_answers_are_recognised():
    model, tokenizer = tiny("llama", vocab_size=259), byte_tokenizer()
    context = tokenizer("begin")["input_ids"]
    ids = model.generate(torch.tensor([context]), max_new_tokens=4, do_sample=False)[0].tolist()
    greedy = ids[len(context) :]
    other = [*greedy[:-1], (greedy[-1] + 1) % 256]
    answers = Scorer(model, tokenizer)._loglikelihood_tokens(
        [(("", ""), context, greedy), (("", ""), context, other)]
    )
    assert [answer[1] for answer in answers] == [True, False]
    assert answers[0][0] > answers[1][0]


@pytest.mark.parametrize("family", sorted(TINY))
def test_these_families_take_trees_of_tokens(family):
    assert supports_tree_attention(tiny(family))
    assert supports_tree_attention(tiny(family).bfloat16())


def alibi(**changes):
    """Falcon with distances in place of positions: its decoder does not heed `position_ids`."""
    return tiny("falcon", alibi=True, new_decoder_architecture=False, **changes)


def test_what_takes_no_trees_runs_whole_sequences():
    assert not supports_tree_attention(alibi())
    model, tokenizer = alibi(vocab_size=259), byte_tokenizer()
    equals_hflm(model, tokenizer)


def test_a_context_runs_once_for_all_its_options():
    model = tiny("llama", vocab_size=259)
    tokens = []
    model.model.layers[0].register_forward_pre_hook(
        lambda _module, args: tokens.append(args[0].shape[0] * args[0].shape[1])
    )
    context, options = "c" * 50, [" one", " two", " three", " four"]
    scorer = Scorer(model, byte_tokenizer())
    scorer.loglikelihood(requests([("first", "x")]))  # finds out what the decoder takes
    tokens.clear()
    scorer.loglikelihood(requests([(context, option) for option in options]))
    # lm-eval's backend runs 4 x 55 tokens; here 50 once, and the options but their last tokens,
    # once where they begin alike: " one", " two", " thre", " four".
    assert sum(tokens) == 50 + len(" on") + len("tw") + len("hre") + len("fou")


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
def test_loss_equals_the_models_own(family):
    model = tiny(family)
    ids = torch.randint(3, 96, (5, 21), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        losses = [float(model(row[None], labels=row[None]).loss) for row in ids]
    loss = heldout_loss(model, ids)
    assert loss.nats == pytest.approx(sum(losses) / 5, abs=1e-5)
    assert loss.normalised == pytest.approx(loss.nats / math.log(96), abs=1e-6)
    assert loss.stderr == pytest.approx(
        float(torch.tensor(losses, dtype=torch.float64).std() / 5**0.5), abs=1e-5
    )
    assert loss.num_sequences == 5


def test_uniform_guessing_has_a_normalised_loss_of_one(tiny_llama):
    torch.nn.init.zeros_(tiny_llama.lm_head.weight)
    ids = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(1))
    assert heldout_loss(tiny_llama, ids).normalised == pytest.approx(1, abs=1e-6)
