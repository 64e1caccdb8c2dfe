"""The scorer's answers are lm-eval's own, request by request."""

import math

import pytest
import torch
from architectures import tiny_architecture
from families import TINY
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tiny import byte_tokenizer, tiny

from layerprune.evaluate.heldout_loss import heldout_loss
from layerprune.evaluate.scorer import Scorer
from layerprune.evaluate.token_tree_batch import max_tree_difference, tree_difference
from layerprune.model.surgery import drop_layers
from layerprune.record.provenance import PromptSharing
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
    """The answers to all `PAIRS` equal lm-eval's own backend's."""
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


def supports_trees(model):
    return tree_difference(model) < max_tree_difference(model)


@pytest.mark.parametrize("family", sorted(TINY))
def test_these_families_take_trees_of_tokens(family):
    assert supports_trees(tiny(family))
    assert supports_trees(tiny(family).bfloat16())


def alibi(**changes):
    """Falcon with distances in place of positions: its decoder does not heed `position_ids`."""
    return tiny("falcon", alibi=True, new_decoder_architecture=False, **changes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "model_type", ["roberta", "camembert", "roformer", "mpt", "gpt_neo", "blenderbot-small"]
)
def test_these_do_not_in_any_precision(model_type, dtype):
    """States of their whole decoder differ by less than rounding in 16 bits may add up to."""
    difference = tree_difference(tiny_architecture(model_type).eval().to(dtype))
    assert difference > 2 * max_tree_difference(tiny("llama").to(dtype))


def test_rounding_in_16_bits_does_not_add_up_over_layers():
    """A mixture of experts: a rounded token may take another expert, and differ from there on."""
    assert tree_difference(tiny("mixtral").bfloat16()) < 0.005


def test_what_takes_no_trees_runs_whole_sequences():
    assert not supports_trees(alibi())
    model, tokenizer = alibi(vocab_size=259), byte_tokenizer()
    equals_hflm(model, tokenizer)


def test_the_cost_of_prompts_that_share_nothing_is_counted():
    """Three options of 4, 3 and 6 bytes, of which the last is not read, after 50."""
    asked = requests([("c" * 50, option) for option in (" yes", " no", " it is")])
    sharing, alone = (
        Scorer(model, byte_tokenizer())
        for model in (tiny("llama", vocab_size=259), alibi(vocab_size=259))
    )
    for scorer in (sharing, alone):
        assert scorer.sharing == PromptSharing()
        scorer.loglikelihood(asked)
    assert sharing.sharing.difference < 1e-6
    assert sharing.sharing.cost is None
    shared = 50 + 1 + 2 + 1 + 4  # the context, " ", "ye", "n", "it i"
    assert alone.sharing.cost == pytest.approx((53 + 52 + 55) / shared)


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
