"""Many cut models in one pass answer as each of them does alone."""

import random

import pytest
import torch
from families import TINY
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tiny import byte_tokenizer, tiny

from layerprune.evaluate.contexts import contexts, groups
from layerprune.evaluate.scorer import Scorer
from layerprune.evaluate.tree import grow
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import drop_layers

SHOTS = "The following are questions.\n" + "Question: one?\nAnswer: one\n" * 2
PAIRS = [
    # A shared beginning with options of one token, ...
    *((f"{SHOTS}Question: {word}?\nAnswer:", one) for word in ("a", "bcd", "b") for one in "AB"),
    # ... another one with longer options, contexts of one length and of others, ...
    *(
        (f"Some other beginning, long enough. {word}", option)
        for word in ("x", "y", "zz", "")
        for option in (" yes", " no", "!", " a longer one")
    ),
    # ... and what shares nothing.
    ("", "no context at all"),
    ("one", "x"),
    ("long " * 40, " and the end of it"),  # longer than the window below
]  # fmt: skip
PATHS = [
    tuple(layer for layer in range(8) if layer not in dropped)
    for dropped in ([], [7], [0], [3, 4], [4], [2, 3, 4, 5], [1, 5], [4, 5, 6], [0, 1, 2, 3, 4, 5])
]


def requests(pairs):
    return [Instance("loglikelihood", {}, arguments=pair, idx=at) for at, pair in enumerate(pairs)]


@pytest.mark.parametrize("family", sorted(TINY))
def test_every_path_equals_hflm_on_the_cut_model(family):
    model, tokenizer = tiny(family, vocab_size=259), byte_tokenizer()
    before = [part.clone() for part in model.parameters()]
    scorer = Scorer(model, tokenizer, batch_size=3, max_length=120, paths=PATHS)
    for number, path in enumerate(PATHS):
        cut = drop_layers(tiny(family, vocab_size=259), [at for at in range(8) if at not in path])
        expected = HFLM(pretrained=cut, tokenizer=tokenizer, batch_size=1, max_length=120)
        scorer.path = number
        for (value, greedy), (wanted, wanted_greedy) in zip(
            scorer.loglikelihood(requests(PAIRS)),
            expected.loglikelihood(requests(PAIRS), disable_tqdm=True),
            strict=True,
        ):
            assert value == pytest.approx(wanted, abs=1e-4, rel=1e-5)
            assert greedy == wanted_greedy
    assert len(decoder_stack(model).layers) == 8
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_rolling_and_generation_are_those_of_the_path(family):
    model, tokenizer = tiny(family, vocab_size=259), byte_tokenizer()
    scorer = Scorer(model, tokenizer, batch_size=2, max_length=40, paths=PATHS)
    texts = [Instance("loglikelihood_rolling", {}, arguments=("abc " * 25,), idx=0)]
    asked = [
        Instance("generate_until", {}, idx=0,
                 arguments=("a question", {"until": ["\n"], "max_gen_toks": 5, "do_sample": False}))
    ]  # fmt: skip
    for number in (0, 3, 6):
        scorer.path = number
        cut = drop_layers(
            tiny(family, vocab_size=259), [at for at in range(8) if at not in PATHS[number]]
        )
        alone = HFLM(pretrained=cut, tokenizer=tokenizer, batch_size=2, max_length=40)
        (wanted,) = alone.loglikelihood_rolling(texts, disable_tqdm=True)
        assert scorer.loglikelihood_rolling(texts) == [pytest.approx(wanted, abs=1e-3)]
        assert scorer.generate_until(asked) == alone.generate_until(asked, disable_tqdm=True)


def test_what_is_shared_runs_once(monkeypatch):
    model, tokenizer = tiny("llama", vocab_size=259), byte_tokenizer()
    ran = []

    def note(_module, args, kwargs):
        ran.append((args[0] if args else kwargs["hidden_states"]).shape)

    for layer in decoder_stack(model).layers:
        layer.register_forward_pre_hook(note, with_kwargs=True)
    paths = [tuple(at for at in range(8) if not 5 - count <= at < 6) for count in range(4)]
    scorer = Scorer(model, tokenizer, batch_size=8, paths=paths)
    prefix = "p" * 50
    scorer.loglikelihood(requests([(prefix + word, "A") for word in ("x", "yz", "uvw")]))
    runs = sum(branch.layer_runs for branch in grow(paths))
    assert runs == len({path[:at] for path in paths for at in range(1, 9) if at <= len(path)})
    # The beginning once, and the rest of the three questions, padded to the longest, once.
    assert sorted(ran) == sorted([(1, 50, 32)] * runs + [(3, 3, 32)] * runs)
    before = len(ran)
    for scorer.path in range(4):
        scorer.loglikelihood(requests([(prefix + "x", "A")]))
    assert len(ran) == before


def walked(branches, before=()):
    for branch in branches:
        path = before + branch.layers
        yield from ((number, path) for number in branch.ends)
        yield from walked(branch.branches, path)


def test_a_tree_holds_every_path_and_runs_no_layer_twice():
    dice = random.Random(0)
    for _ in range(200):
        count = dice.randint(1, 12)
        paths = [
            tuple(sorted(dice.sample(range(count), dice.randint(1, count))))
            for _ in range(dice.randint(1, 9))
        ]
        tree = grow(paths)
        assert sorted(walked(tree)) == sorted(enumerate(paths))
        beginnings = {path[:at] for path in paths for at in range(1, len(path) + 1)}
        assert sum(branch.layer_runs for branch in tree) == len(beginnings)


def test_groups_hold_every_context_and_share_what_they_can():
    dice = random.Random(0)
    for _ in range(100):
        starts = [dice.choices(range(3), k=dice.randint(0, 60)) for _ in range(4)]
        asked = [
            (
                ("", ""),
                [*dice.choice(starts), *dice.choices(range(3), k=dice.randint(1, 9))],
                [dice.randrange(3)],
            )
            for _ in range(30)
        ]
        found = contexts(asked, 1000)
        made = groups(found)
        whole = sorted(group.prefix + context.ids for group in made for context in group.contexts)
        assert whole == sorted(context.ids for context in found)
        assert all(context.ids for group in made for context in group.contexts)
        options = sorted(
            option.request for group in made for each in group.contexts for option in each.options
        )
        assert options == list(range(30))


def test_few_shot_subjects_are_a_group_each():
    subjects = {name: [ord(letter) for letter in name * 20] for name in ("law", "art", "sea")}
    asked = [
        (("", ""), [1, 2, *start, *range(200, 200 + at)], [7])
        for start in subjects.values()
        for at in range(1, 30)
    ]
    made = groups(contexts(asked, 1000))
    assert sorted(len(group.contexts) for group in made) == [29, 29, 29]
    assert all(len(group.prefix) == 2 + 60 for group in made)
