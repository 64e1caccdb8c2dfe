"""Prompts and their tokens are made once for all cut models, and equal lm-eval's."""

import pytest
from asked import requests
from lm_eval.models.huggingface import HFLM
from tiny import byte_tokenizer, tiny

from layerprune.config.compose import compose
from layerprune.evaluate.eval_tasks import EvalTasks
from layerprune.evaluate.scorer import Scorer
from layerprune.evaluate.token_cache import TokenCache
from layerprune.run import pipeline
from layerprune.run.job import JobBuilder

PATHS = [tuple(range(8)), (0, 1, 2, 6, 7), (0, 7)]


@pytest.fixture
def eval_tasks():
    config = compose("eval.tasks=[facts]", "eval.num_fewshot=2", "eval.limit=6").eval
    made = EvalTasks(config)
    made.load()
    return made


def test_lm_eval_makes_each_prompt_once(eval_tasks, monkeypatch):
    made = []
    for task in eval_tasks._loaded["tasks"].values():
        real = task.fewshot_context
        monkeypatch.setattr(
            task, "fewshot_context", lambda *a, real=real, **k: made.append(a) or real(*a, **k)
        )
    model = tiny("llama", vocab_size=259, max_position_embeddings=512)
    scorer = Scorer(model, byte_tokenizer(), paths=PATHS)
    scores = []
    for scorer.path in (0, 1, 2, 0):
        scores.append(eval_tasks.score(scorer))
    questions = sum(score.num_samples for score in scores[0] if score.correct is not None)
    assert len(made) == questions > 0
    assert scores[3] == scores[0] != scores[2]
    other = Scorer(model, byte_tokenizer())  # a healed point's
    assert eval_tasks.score(other) == scores[0]
    assert len(made) == questions


def test_a_chat_template_of_another_model_rebuilds_the_prompts(eval_tasks, monkeypatch):
    eval_tasks._config.chat_template = True
    model = tiny("llama", vocab_size=259, max_position_embeddings=512)
    seen = []
    for mark in ("A", "B"):
        tokenizer = byte_tokenizer()
        tokenizer.chat_template = mark + "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        tokenizer.name_or_path = f"model-{mark}"
        scorer = Scorer(model, tokenizer)
        monkeypatch.setattr(
            scorer,
            "_compute",
            lambda new: seen.append(new[0][0][0][0]) or [[(0.0, False)]] * len(new),
        )
        eval_tasks.score(scorer)
    assert seen == ["A", "B"]


@pytest.mark.parametrize("add_bos", [None, True, False])
def test_tokens_are_those_of_lm_eval(add_bos, monkeypatch):
    pairs = [
        ("Question: what?\nAnswer:", " yes"), ("Question: what?\nAnswer:", " no"),
        ("ends in spaces  ", "x"), ("", "no context"), ("<s>begins with BOS", " a"),
        ("ü and 你好", " 2"), (" ", "only a space"), ("two\n\n", "\nlines"),
    ]  # fmt: skip
    model, tokenizer, asked = tiny("llama", vocab_size=259), byte_tokenizer(), {}
    for kind in (HFLM, Scorer):
        arguments = {"add_bos_token": add_bos} if kind is HFLM else {}
        lm = (
            kind(pretrained=model, tokenizer=tokenizer, **arguments)
            if kind is HFLM
            else kind(model, tokenizer)
        )
        lm.add_bos_token = add_bos

        def keep(new, *_, kind=kind, **__):
            asked[kind] = {texts: (list(context), list(rest)) for texts, context, rest in new}
            return [(0.0, False)] * len(new) if kind is HFLM else [[(0.0, False)]] * len(new)

        monkeypatch.setattr(lm, "_loglikelihood_tokens" if kind is HFLM else "_compute", keep)
        lm.loglikelihood(requests(pairs))
    assert asked[Scorer].items() <= asked[HFLM].items()
    tokens = {str(each) for each in asked[HFLM].values()}
    assert {str(each) for each in asked[Scorer].values()} == tokens  # equal ones are asked once


def test_healed_points_of_a_run_share_the_tokens_of_the_first(tmp_path, tiny_folder, monkeypatch):
    texts, real, asked = [], Scorer._encode_together, []
    monkeypatch.setattr(
        Scorer, "_encode_together", lambda self, pairs: texts.extend(pairs) or real(self, pairs)
    )
    compute = Scorer._compute
    monkeypatch.setattr(
        Scorer, "_compute", lambda self, new: asked.append(new) or compute(self, new)
    )
    builder, settings = JobBuilder(), (
        "model=custom", f"model.path={tiny_folder}", f"runtime.outputs={tmp_path}",
        "data.sequence_length=32", "data.calibration_sequences=4", "data.heldout_sequences=4",
        "eval.tasks=[facts]", "eval.limit=4", "heal.sequences=8", "heal.sequence_length=32",
    )  # fmt: skip
    for fraction in ("[0.25,0.5]", "0.375"):  # as a sweep has them, too
        pipeline.run_job(
            builder.build(compose("heal=linear", f"prune.fraction={fraction}", *settings))
        )
    assert len(asked) == 3
    assert asked[1] == asked[2] == asked[0]
    assert len(texts) == len(set(texts)) == len(asked[0])


def test_tokens_of_another_model_are_dropped(eval_tasks):
    cache = eval_tasks.token_cache("a")
    cache.add([(("question", " yes"), (1, 2), (3,))])
    assert eval_tasks.token_cache("a") is cache
    assert ("question", " yes") in cache
    assert ("question", " yes") not in eval_tasks.token_cache("b")


def test_options_of_a_question_share_its_tokens():
    cache, context = TokenCache(), tuple(range(700))
    cache.add(
        [(("a", " yes"), context, (3,)), (("a", " no"), context, (4, 5)), (("b", ""), [1], [2])]
    )
    yes, no, other = cache.requests([("a", " yes"), ("a", " no"), ("b", "")])
    assert yes == (("a", " yes"), context, (3,))
    assert no == (("a", " no"), context, (4, 5))
    assert no[1] is yes[1]
    assert other == (("b", ""), (1,), (2,))


def test_seconds_are_told_by_stage(tmp_path, tiny_folder, capsys, monkeypatch):
    monkeypatch.setattr("layerprune.evaluate.evaluate.SAY_STAGES_AFTER", 0)
    points = pipeline.run(
        compose(
            "model=custom",
            f"model.path={tiny_folder}",
            f"runtime.outputs={tmp_path}",
            "data.sequence_length=32",
            "data.calibration_sequences=4",
            "data.heldout_sequences=4",
            "eval.tasks=[facts]",
            "eval.limit=4",
            "prune.fraction=[0,0.25,0.5]",
        )
    )
    for point in points:
        seconds = point.costs.seconds
        assert set(seconds) == {"prompts", "tokens", "answers", "heldout", "scoring"}
        assert all(value > 0 for value in seconds.values())
    shared = [point.costs.seconds["answers"] for point in points]
    assert shared == pytest.approx([shared[0]] * 3, rel=0.2)
    said = capsys.readouterr().err
    assert "s for prompts" in said
    assert "s per model to score them" in said


def test_a_point_says_whether_prompts_shared_tokens(tmp_path, tiny_folder):
    overrides = (
        "model=custom", f"model.path={tiny_folder}", f"runtime.outputs={tmp_path}",
        "data.sequence_length=32", "data.calibration_sequences=4", "data.heldout_sequences=4",
        "eval.tasks=[facts]", "eval.limit=4", "prune.fraction=[0.25]",
    )  # fmt: skip
    (plain,) = pipeline.run(compose(*overrides))
    assert 0 <= plain.provenance.prompt_sharing.difference < 1e-5
    assert plain.provenance.prompt_sharing.cost is None
