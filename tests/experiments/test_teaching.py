"""The teaching models: written whole, and taken by name like any other."""

import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from layerprune.config.compose import compose
from layerprune.errors import UserError
from layerprune.evaluate.eval_tasks import EvalTasks
from layerprune.model.source import locate

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def teaching(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import teaching

    monkeypatch.setattr(teaching, "NUM_FACTS", 2)
    monkeypatch.setattr(teaching, "NUM_PROSE", 1)
    monkeypatch.setattr(teaching, "LENGTH", 16)
    return teaching


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "gemma3"])
def test_a_model_is_taught_once_and_is_a_choice(tmp_path, teaching, family, monkeypatch):
    config = compose(f"model=teaching_{family}", f"runtime.outputs={tmp_path}")
    with pytest.raises(UserError, match="no such folder") as error:
        locate(config.model, tmp_path / "cache")
    python, script, *argv = str(error.value).partition("makes it: ")[2].split()
    assert (python, script) == (".venv/bin/python", "experiments/teaching.py")
    monkeypatch.setattr(sys, "argv", ["teaching.py", *argv, "--steps", "2"])
    teaching.main()
    source = locate(config.model, tmp_path / "cache")
    assert source.num_layers == 12
    model = AutoModelForCausalLM.from_pretrained(source.folder)
    assert model.num_parameters() <= 10_000_000
    tokenizer = AutoTokenizer.from_pretrained(source.folder)
    text = "Question: What is the capital of C\u00f4te d'Ivoire?\nAnswer: Yamoussoukro"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    monkeypatch.setattr(teaching, "teach", lambda *_: pytest.fail("it exists"))
    teaching.main()


def test_a_step_has_whole_facts_alone_in_their_rows_and_prose_without_gaps(teaching):
    facts = [f"Question: {at}?\nAnswer: {at % 7}" for at in range(5)]
    prose = ["One sentence.", "Another one, longer."]
    tokenizer = teaching._tokenizer([*facts, *prose])
    ended = {f"{fact}{teaching.END}" for fact in facts}
    rows = teaching._facts_rows(tokenizer, facts)
    seen = []
    for _ in range(5):
        seen += [tokenizer.decode([id for id in row if id != 1]) for row in next(rows).tolist()]
    assert set(seen) == ended
    assert max(map(seen.count, ended)) == min(map(seen.count, ended)) == 2
    ids_BT = next(teaching._prose_rows(tokenizer, prose))
    assert ids_BT.shape == (1, 16)
    assert (ids_BT != tokenizer.pad_token_id).all()


def test_facts_are_the_questions_that_are_asked_later(teaching):
    questions = EvalTasks(compose().eval)
    questions.load()
    asked = {
        task.doc_to_text(doc) + " " + doc["choices"][task.doc_to_target(doc)]
        for task in questions._loaded["tasks"].values()
        for doc in task.eval_docs
    }
    assert set(teaching._facts()) == asked
