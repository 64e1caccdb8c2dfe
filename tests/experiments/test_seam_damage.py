"""What is measured above a seam, against dense models that are cut and run unchanged."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scripts import LARGEST, cells, script
from tiny import byte_tokenizer, tiny

from layerprune.model.load import LoadedModel
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import dropped

LAYERS = 8

passes, tables, asking = map(script, ("seam_passes", "seam_tables", "seam_questions"))


@pytest.fixture(scope="module")
def model():
    model = tiny("llama", vocab_size=259, max_position_embeddings=512)
    model.set_attn_implementation("eager")
    return model


@pytest.fixture(scope="module")
def ids_st():
    return torch.randint(0, 259, (11, 24), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def naive_nats(model, ids_BT):
    logprob_BTV = torch.log_softmax(model(ids_BT).logits[:, :-1].double(), dim=-1)
    return -logprob_BTV.gather(2, ids_BT[:, 1:, None])[..., 0]


@torch.inference_mode()
def spoiled(model, block, state_BTH, tokens, ids_BT):
    """The loss of a model that is cut, with other states for some tokens where the seam is."""

    def hook(_module, args):
        hidden_BTH = args[0].clone()
        hidden_BTH[:, tokens] = state_BTH[:, tokens]
        return hidden_BTH, *args[1:]

    with dropped(model, range(block.first, block.last + 1)):
        handle = decoder_stack(model).layers[block.first].register_forward_pre_hook(hook)
        try:
            return naive_nats(model, ids_BT)
        finally:
            handle.remove()


@torch.inference_mode()
def whole_states(model, ids_BT):
    """What enters each layer; the last of them has passed the final norm in transformers."""
    return model(ids_BT, output_hidden_states=True).hidden_states[:-1]


def test_an_angle_is_that_of_the_arc_cosine_and_nothing_between_equal_states():
    a, b = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(1))
    found = passes.angle(a, b)
    for at in np.ndindex(3, 5):
        one, other = a[at].double().numpy(), b[at].double().numpy()
        cosine = one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
        assert found[at].item() == pytest.approx(math.acos(cosine) / math.pi)
    assert passes.angle(a, 3 * a).max() < 1e-7
    assert torch.allclose(passes.angle(a, -a), torch.ones(3, 5, dtype=torch.float64))


def test_a_pass_is_that_of_transformers(model, ids_st):
    with torch.inference_mode():
        out = model(ids_st, output_hidden_states=True, output_attentions=True)
    found = passes.run(model, range(LAYERS), ids_st)
    assert len(found.states) == LAYERS + 1
    for mine, theirs in zip(found.states, out.hidden_states[:-1], strict=False):
        assert torch.allclose(mine, theirs, atol=1e-5)
    for mine, theirs in zip(found.shares, out.attentions, strict=True):
        assert torch.allclose(mine, theirs[:, :, :, 0].mean(1), atol=1e-5)
        assert torch.allclose(mine[:, 0], torch.ones(len(ids_st)))
    nats = passes.nats(model, found.normed_BTH, ids_st)
    assert torch.allclose(nats, naive_nats(model, ids_st), atol=1e-5)


def test_layers_above_a_seam_are_a_cut_model_from_there(model, ids_st):
    block = passes.Block(2, 4)
    kept = passes.watch(model, ids_st, [block])
    cut = kept["2-4"]
    states = whole_states(model, ids_st)
    with dropped(model, [2, 3, 4]):
        wanted = naive_nats(model, ids_st)
        cut_states = whole_states(model, ids_st)
    assert np.allclose(cut.loss(2), wanted, atol=1e-5)
    assert np.allclose(kept[passes.WHOLE].loss(0), naive_nats(model, ids_st), atol=1e-5)
    assert list(cut.layers) == [5, 6, 7]
    for slot, layer in enumerate(cut.layers):
        for first, tokens in ((True, slice(0, 1)), (False, slice(1, None))):
            ours, theirs = cut_states[layer - 3][:, tokens], states[layer][:, tokens]
            assert cut.angle(first)[slot] == pytest.approx(
                passes.angle(ours, theirs).mean().item(), abs=1e-5
            )
            norms = ours.norm(dim=-1).numpy()
            assert cut.norm(first)[slot] == pytest.approx(np.median(norms), rel=1e-5)
    assert len(cut.angle(first=True)) == 4
    assert kept[passes.WHOLE].angle(first=False).max() == 0


def test_what_is_mended_at_a_seam_is_what_the_whole_model_has_there(model, ids_st):
    blocks = [passes.Block(3, 5), passes.Block(1, 3)]
    kept = passes.watch(model, ids_st, blocks)
    states = whole_states(model, ids_st)
    assert set(kept["3-5"].nats) == {1, 3, 4, 6, passes.OTHERS}
    assert set(kept["1-3"].nats) == {1, 3, 4, passes.OTHERS}, "6 is above the seam"
    for block in blocks:
        for mended in kept[block.name].nats:
            # The first token gets the state that enters a layer, or all other tokens get theirs.
            if mended is passes.OTHERS:
                wanted = spoiled(model, block, states[block.after], slice(1, None), ids_st)
            else:
                wanted = spoiled(model, block, states[mended], [0], ids_st)
            assert np.allclose(kept[block.name].loss(mended), wanted, atol=1e-5), mended
        with dropped(model, range(block.first, block.after)):
            wanted = naive_nats(model, ids_st)
        assert np.allclose(kept[block.name].loss(block.first), wanted, atol=1e-5)
        assert not np.allclose(kept[block.name].loss(block.after), wanted, atol=1e-5)


def test_a_seam_mended_for_all_tokens_is_no_seam(model, ids_st):
    whole = passes.run(model, range(LAYERS), ids_st)
    block = passes.Block(2, 4)
    first, others = (passes.mend(whole.states, block, each) for each in (5, passes.OTHERS))
    seam = torch.cat([first[:, :1], others[:, 1:]], dim=1)
    assert torch.allclose(passes.above(model, 5, seam), whole.normed_BTH, atol=1e-5)


def test_tokens_are_grouped_by_what_is_before_them():
    ids = torch.randint(0, 6, (4, 80), generator=torch.Generator().manual_seed(2))
    seen = Counter({0: 100, 1: 99, 2: 10, 3: 9})  # nothing of 4 and 5
    groups = tables.token_groups(ids, seen)
    found = {name: set(zip(*np.nonzero(chosen), strict=True)) for name, chosen in groups.items()}
    wanted = {name: set() for name in groups}
    names = list(groups)
    for row, sequence in enumerate(ids.tolist()):
        for at in range(1, 80):
            token, cell = sequence[at], (row, at - 1)
            place = 1 if at == 1 else 2 if at < 16 else 3 if at < 64 else 4
            kind = 5 if token == 0 else 6 if token in (1, 2) else 7
            again = 8 if token in sequence[:at] else 9
            for group in (0, place, kind, again):
                wanted[names[group]].add(cell)
    assert found == wanted


@pytest.fixture(scope="module")
def questions():
    return [
        asking.Question(f"After {chr(97 + at)} comes", (" b", f" {'xy' * (at + 1)}", " no"), at % 3)
        for at in range(7)
    ]


def test_questions_are_answered_by_the_likeliest_option(model, questions, monkeypatch):
    monkeypatch.setattr(asking, "ROWS", 9)
    tokenizer, block = byte_tokenizer(), passes.Block(2, 4)
    asked = asking.ask(LoadedModel(model, tokenizer), [block], questions)
    for dropping, key in (((), passes.WHOLE), ((2, 3, 4), block.name)):
        right, answer, before = [], [], []
        for question in questions:
            sums = []
            for at, option in enumerate(question.options):
                ids = torch.tensor([tokenizer(question.prompt + option).input_ids])
                with dropped(model, dropping):
                    nats = naive_nats(model, ids)[0].tolist()
                start = len(question.prompt) - 1
                sums.append(sum(nats[start:]))
                if at == question.right:
                    answer += nats[start:]
                    before += nats[:start]
            right.append(sums.index(min(sums)) == question.right)
        one = asked[key, False]
        assert one.right == right
        assert one.answer == pytest.approx(answer, abs=1e-5)
        assert one.question == pytest.approx(before, abs=1e-5)


def test_the_questions_of_facts_are_as_they_are_asked_elsewhere():
    from layerprune.config.compose import compose
    from layerprune.evaluate.eval_tasks import EvalTasks

    config = compose("eval.limit=3").eval
    questions = EvalTasks(config)
    questions.load()
    wanted = {
        (task.doc_to_text(doc), tuple(f" {choice}" for choice in doc["choices"]), doc["answer"])
        for task in questions._loaded["tasks"].values()
        for doc in list(task.eval_docs)[:3]
    }
    assert set(map(tuple, asking.read_questions(3))) == wanted


def test_tables_and_figures_say_what_was_measured(model, ids_st, questions, tmp_path):
    blocks = [passes.Block(2, 3), passes.Block(2, 4)]
    kept = passes.watch(model, ids_st, blocks)
    rows = cells(tables.mending_table(kept))
    assert [row[0] for row in rows] == ["nothing", "2-3", "2-4"]
    whole = kept[passes.WHOLE].loss(0).mean()
    own, first = (kept["2-4"].loss(each).mean(axis=1) for each in (2, 5))
    back, rise = own - first, own.mean() - whole
    assert rows[2][1:4] == [
        f"{own.mean():.3f}",
        f"{back.mean():z.3f} ± {np.std(back, ddof=1) / math.sqrt(len(ids_st)):.3f}",
        f"{back.mean() / rise:z.0%}",
    ]
    rows = cells(tables.borrowing_table(kept))
    assert rows[1] == [
        "2-4",
        f"**{own.mean():.3f}**",
        f"{kept['2-4'].loss(4).mean():.3f}",
        f"{first.mean():.3f}",
    ]
    assert rows[0][-1] == "", "5 is above its seam"
    rows = cells(tables.layer_table(kept))
    assert [row[0] for row in rows] == [*map(str, range(LAYERS)), "end"]
    assert [bool(row[-1]) for row in rows] == [layer >= 5 for layer in range(LAYERS + 1)]
    groups = tables.token_groups(ids_st, Counter())
    rows = cells(tables.token_table(kept, groups))
    assert rows[0] == [
        "all", "100.0%", f"{whole:.2f}",
        *(f"{kept[name].loss(2).mean() - whole:+.2f}" for name in ("2-3", "2-4")),
    ]  # fmt: skip
    assert not any(row[0].startswith("frequent") for row in rows), "none was seen"
    asked = asking.ask(LoadedModel(model, byte_tokenizer()), blocks, questions)
    rows = cells(asking.question_table(asked))
    assert len(rows) == 1 + 2 * 2
    assert rows[0][2] == f"{100 * np.mean(asked[passes.WHOLE, False].right):.1f}"
    charts = script("seam_charts")
    drawn = charts.drift_chart(kept), charts.sink_chart(kept), charts.token_chart(kept, groups)
    for at, chart in enumerate(drawn):
        script("pictures").write(path := tmp_path / f"{at}.png", chart)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size <= LARGEST
