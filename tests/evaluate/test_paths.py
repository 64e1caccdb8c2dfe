"""Many cut models in one pass answer as each of them does alone."""

import random

import pytest
import torch
from asked import PAIRS, SMALL, answers, close, requests
from families import TINY
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tiny import byte_tokenizer, tiny

from layerprune.evaluate.request_groups import _prefix_groups, group_contexts, to_contexts
from layerprune.evaluate.scorer import Scorer
from layerprune.evaluate.token_tree import batches, token_trees, unbranched_trees
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import drop_layers
from layerprune.shared_forward.memory_budget import MemoryBudget
from layerprune.shared_forward.prefix_tree import build_prefix_tree

PATHS = [
    tuple(layer for layer in range(8) if layer not in dropped)
    for dropped in ([], [7], [0], [3, 4], [4], [2, 3, 4, 5], [1, 5], [4, 5, 6], [0, 1, 2, 3, 4, 5])
]


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(TINY))
def test_every_path_equals_hflm_on_the_cut_model(family):
    model = tiny(family, vocab_size=259)
    before = [part.clone() for part in model.parameters()]
    for found, expected in answers(model, PATHS, PAIRS):
        for (value, greedy), (wanted, wanted_greedy) in zip(found, expected, strict=True):
            assert value == close(wanted)
            assert greedy == wanted_greedy
    assert len(decoder_stack(model).layers) == 8
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_rolling_and_generation_are_those_of_the_path(family):
    model, tokenizer = tiny(family, vocab_size=259), byte_tokenizer()
    scorer = Scorer(model, tokenizer, memory_budget=SMALL, max_length=40, paths=PATHS)
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
    scorer = Scorer(model, tokenizer, max_length=200, paths=paths)
    scorer.loglikelihood(requests([("first", "x")]))  # finds out what the decoder takes
    ran.clear()
    prefix = "p" * 150
    scorer.loglikelihood(requests([(prefix + word, "A") for word in ("x", "yz", "uvw")]))
    runs = sum(branch.layer_runs for branch in build_prefix_tree(paths))
    assert runs == len({path[:at] for path in paths for at in range(1, 9) if at <= len(path)})
    # The beginning once, and the rest of the three questions, in one row, once.
    assert sorted(ran) == sorted([(1, 150, 32)] * runs + [(1, 6, 32)] * runs)
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
        tree = build_prefix_tree(paths)
        assert sorted(walked(tree)) == sorted(enumerate(paths))
        # A path's last layer is its own, so that no answer depends on the other paths.
        beginnings = {
            (path[:at], at == len(path)) for path in paths for at in range(1, len(path) + 1)
        }
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
        found = to_contexts(asked, 1000)
        made = group_contexts(found)
        whole = sorted(group.prefix + context.ids for group in made for context in group.contexts)
        assert whole == sorted(context.ids for context in found)
        assert all(context.ids for group in made for context in group.contexts)
        options = sorted(
            option.request for group in made for each in group.contexts for option in each.options
        )
        assert options == list(range(30))


def few_shot(names):
    subjects = {name: [ord(letter) for letter in name * 20] for name in names}
    return [
        (("", ""), [1, 2, *start, *range(200, 200 + at)], [7])
        for start in subjects.values()
        for at in range(1, 30)
    ]


STRAY = [(("", ""), ids, [7]) for ids in ([1, 2, 97, 5], [1, 2, 98], [50], [60, 61], [1, 2, 109])]


@pytest.mark.parametrize("stray", [[], STRAY, STRAY[2:]], ids=len)
def test_few_shot_subjects_are_a_group_each_whatever_stands_between(stray):
    made = group_contexts(to_contexts([*stray, *few_shot(("law", "art", "sea"))], 1000))
    assert [(len(group.prefix), len(group.contexts)) for group in made[:3]] == [(62, 29)] * 3
    assert [len(group.contexts) for group in made[3:]] == ([len(stray)] if stray else [])


def partitions(items):
    if not items:
        yield []
        return
    for rest in partitions(items[1:]):
        yield [[items[0]], *rest]
        for at, some in enumerate(rest):
            yield [*rest[:at], [items[0], *some], *rest[at + 1 :]]


def test_groups_save_nearly_as_much_as_the_best_partition():
    dice = random.Random(1)
    ours, most_possible = 0, 0

    def saved(token_trees):
        most = min(map(len, token_trees)) - 1
        differ = (
            at for at, column in enumerate(zip(*token_trees, strict=False)) if len(set(column)) > 1
        )
        return min(next(differ, most), most) * (len(token_trees) - 1)

    for _ in range(100):
        token_trees = list(
            {(*dice.choices(range(2), k=dice.randint(0, 7)), 9) for _ in range(dice.randint(1, 6))}
        )
        found = _prefix_groups(token_trees)
        assert sorted(at for members, _ in found for at in members) == list(range(len(token_trees)))
        for members, length in found:
            assert len({token_trees[at][:length] for at in members}) == 1
            assert length < min(len(token_trees[at]) for at in members)
        made = sum(length * (len(members) - 1) for members, length in found)
        assert made >= saved(token_trees), "at least as much as all together"
        ours += made
        most_possible += max(sum(map(saved, parts)) for parts in partitions(token_trees))
    assert ours >= 0.95 * most_possible


def test_many_nested_beginnings_are_no_trouble():
    found = group_contexts(to_contexts([(("", ""), [3] * at, [7]) for at in range(1, 3000)], 5000))
    assert sum(len(group.contexts) for group in found) == 2999


def test_long_options_in_16_bits_add_up():
    model, tokenizer = tiny("llama", vocab_size=259).bfloat16(), byte_tokenizer()
    long = [("context", "y" * 500)]
    ((value, _),) = Scorer(model, tokenizer, max_length=600).loglikelihood(requests(long))
    wide = HFLM(pretrained=model, tokenizer=tokenizer, max_length=600, softmax_dtype="float32")
    ((wanted, _),) = wide.loglikelihood(requests(long), disable_tqdm=True)
    assert value == pytest.approx(wanted, rel=5e-3)


def test_options_of_one_context_are_bounded():
    (group,) = group_contexts(to_contexts([(("", ""), [1], [3 + at, 2]) for at in range(100)], 50))
    some = token_trees(group.contexts, 12)
    assert sorted(each.request for row in some for each in row.options) == list(range(100))
    assert max(map(len, some)) <= 12
    pairs = [("q", f"{at} options") for at in range(20)]
    model, tokenizer = tiny("llama", vocab_size=259), byte_tokenizer()
    small = Scorer(model, tokenizer, memory_budget=MemoryBudget(16, 40, 259)).loglikelihood(
        requests(pairs)
    )
    large = Scorer(model, tokenizer).loglikelihood(requests(pairs))
    for (value, greedy), (other, other_greedy) in zip(small, large, strict=True):
        assert (value, greedy) == (pytest.approx(other, abs=1e-4), other_greedy)


def test_rows_are_trees_that_hold_every_sequence():
    dice = random.Random(0)
    for _ in range(100):
        asked = [
            (
                ("", ""),
                dice.choices(range(3), k=dice.randint(1, 12)),
                dice.choices(range(3), k=dice.randint(1, 5)),
            )
            for _ in range(20)
        ]
        limit, found = dice.randint(1, 40), to_contexts(asked, 1000)
        for made in (token_trees(found, limit), unbranched_trees(found)):
            seen = {}
            for row in made:
                assert all(parent < at for at, parent in enumerate(row.parents))
                for request, nodes, tokens in row.options:
                    seen[request] = (tuple(branch(row, node) for node in nodes), tokens)
            assert seen == {
                at: (tuple((*ids, *rest[:end]) for end in range(len(rest))), tuple(rest))
                for at, (_, ids, rest) in enumerate(asked)
            }
        for part in batches(token_trees(found, limit), lambda width: 64 // width):
            assert len(part) == 1 or len(part) * max(map(len, part)) <= 64


def branch(row, node):
    """A node's token and those that it goes on from."""
    return (*branch(row, row.parents[node]), row.ids[node]) if node >= 0 else ()


def test_states_wider_or_narrower_than_embeddings():
    """As OPT-350m has them."""
    narrow = {"vocab_size": 259, "word_embed_proj_dim": 16}
    model, tokenizer = tiny("opt", **narrow), byte_tokenizer()
    scorer = Scorer(model, tokenizer, paths=PATHS)
    for scorer.path in (0, 3):
        dropped = [at for at in range(8) if at not in PATHS[scorer.path]]
        alone = HFLM(pretrained=drop_layers(tiny("opt", **narrow), dropped), tokenizer=tokenizer)
        for (value, _), (wanted, _) in zip(
            scorer.loglikelihood(requests(PAIRS[:6])),
            alone.loglikelihood(requests(PAIRS[:6]), disable_tqdm=True),
            strict=True,
        ):
            assert value == close(wanted)
