import json
import random
import re
import subprocess
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scripts import script

from layerprune.evaluate.tasks import facts

pytestmark = pytest.mark.quick

FOLDER = Path(facts.__file__).parent
SPLITS = ("test", "dev")
SUBJECTS = sorted(path.stem for path in (FOLDER / "data" / "test").glob("*.jsonl"))
SUBJECTS.remove("yesno")
KEYS = ["question", "choices", "answer", "subject"]


def rows(split: str, name: str) -> list[dict[str, Any]]:
    path = FOLDER / "data" / split / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def every_row(split: str) -> list[dict[str, Any]]:
    return [row for subject in SUBJECTS for row in rows(split, subject)]


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(FOLDER), include_defaults=False)
    found = manager.load("facts")
    # lm-eval refuses a task that is asked for by itself and as part of a group.
    others = sorted(set(manager.all_subtasks) - set(found["tasks"]))
    return {**found, "tasks": found["tasks"] | manager.load(others)["tasks"]}


def test_there_are_enough_questions_and_subjects():
    assert len(SUBJECTS) >= 5
    assert len(every_row("test")) >= 500


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_rows_are_well_formed(split, subject):
    for row in rows(split, subject):
        assert list(row) == KEYS
        assert row["subject"] == subject
        assert row["question"].endswith("?")
        assert len(set(row["choices"])) == len(row["choices"]) == 4
        assert row["answer"] in range(4)
        assert all(text == text.strip() != "" for text in [row["question"], *row["choices"]])


@pytest.mark.parametrize("subject", SUBJECTS)
def test_answers_are_balanced_in_every_prefix(subject):
    positions = [row["answer"] for row in rows("test", subject)]
    seen = [0, 0, 0, 0]
    for position in positions:
        seen[position] += 1
        assert max(seen) - min(seen) <= 1
    # Balanced, but not in one repeated order.
    assert len({tuple(positions[start : start + 4]) for start in range(0, 40, 4)}) > 1


@pytest.mark.parametrize("subject", SUBJECTS)
def test_no_option_is_right_for_its_own_sake(subject):
    # Picking the option that is most often an answer in the file must not score far over chance.
    answers = Counter(row["choices"][row["answer"]] for row in rows("test", subject))
    rng = random.Random(0)
    right = 0
    for row in rows("test", subject):
        guess = max(range(4), key=lambda i: (answers[row["choices"][i]], rng.random()))
        right += guess == row["answer"]
    assert right / len(rows("test", subject)) < 0.5


def test_no_question_comes_twice_or_in_both_splits():
    questions = [row["question"] for split in SPLITS for row in every_row(split)]
    assert len(questions) == len(set(questions))
    claims = [row["question"] for split in SPLITS for row in rows(split, "yesno")]
    assert len(claims) == len(set(claims))


def test_no_answer_stands_in_its_question():
    for split in SPLITS:
        for row in every_row(split):
            answer, question = row["choices"][row["answer"]].lower(), row["question"].lower()
            # Symbols and state codes are letters of any word: they count only as separate words.
            words = re.findall(r"\w+", question) if len(answer) <= 2 else question
            assert answer not in words, row


@pytest.mark.parametrize("split", SPLITS)
def test_yesno_rows_are_balanced_in_every_prefix(split):
    answers = [row["answer"] for row in rows(split, "yesno")]
    assert abs(sum(answers) * 2 - len(answers)) <= 1
    assert all(one != other for one, other in zip(answers[::2], answers[1::2], strict=False))
    assert any(one == other for one, other in pairwise(answers))


@pytest.mark.parametrize("split", SPLITS)
def test_yesno_rows_ask_for_each_fact_once_and_agree_with_it(split):
    facts = (row for row in every_row(split) if row["subject"] != "fifty_capitals")
    by_question = {row["question"]: row for row in facts}
    claims = rows(split, "yesno")
    assert sorted(row["fact"] for row in claims) == sorted(by_question)
    for row in claims:
        fact = by_question[row["fact"]]
        assert list(row) == [*KEYS, "fact", "claim"]
        assert row["choices"] == ["no", "yes"]
        assert row["subject"] == fact["subject"]
        assert row["claim"] in fact["choices"]
        assert row["claim"] in row["question"]
        assert row["answer"] == (row["claim"] == fact["choices"][fact["answer"]])


def test_lm_eval_loads_the_tasks_from_any_folder(loaded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    headline = loaded["group_map"]["facts"]
    assert set(loaded["tasks"]) == {f"facts_{name}" for name in [*SUBJECTS, "yesno"]}
    assert set(headline) <= {f"facts_{name}" for name in SUBJECTS}
    assert sum(len(loaded["tasks"][name].test_docs()) for name in headline) >= 500
    for name, task in loaded["tasks"].items():
        subject = name.removeprefix("facts_")
        assert list(task.test_docs()) == rows("test", subject)
        assert list(task.fewshot_docs()) == rows("dev", subject)
    assert list(tmp_path.iterdir()) == []


def test_fifty_capitals_are_fifty_and_agree_with_the_capitals():
    fifty = {
        row["question"].replace("capital of", "capital city of"): row["choices"][row["answer"]]
        for row in rows("test", "fifty_capitals")
    }
    answers = {
        row["question"]: row["choices"][row["answer"]]
        for split in SPLITS
        for row in rows(split, "capitals")
    }
    assert len(fifty) == 50
    assert fifty.items() <= answers.items()


def test_lm_eval_asks_for_the_text_of_the_answer(loaded):
    task = loaded["tasks"]["facts_capitals"]
    doc, shots = task.test_docs()[0], rows("dev", "capitals")[:2]
    prompt = task.fewshot_context(doc, num_fewshot=2)
    answered = [f"Question: {s['question']}\nAnswer: {s['choices'][s['answer']]}" for s in shots]
    assert prompt == "\n\n".join([*answered, f"Question: {doc['question']}\nAnswer:"])
    assert task.doc_to_choice(doc) == doc["choices"]
    assert task.doc_to_target(doc) == doc["answer"]
    requests = task.construct_requests(doc, prompt, metadata=(None, 0, 1))
    assert [request.args[1] for request in requests[:4]] == [f" {c}" for c in doc["choices"]]


def test_group_weighs_every_question_alike(loaded):
    metrics = loaded["groups"]["facts"].aggregate_metric_list
    assert {(m.metric, m.weight_by_size) for m in metrics} == {("acc", True), ("acc_norm", True)}


def test_generating_again_gives_the_same_bytes(tmp_path):
    generate = script("generate")
    for name, wanted in generate.PACKAGES.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "not installed"
        if found != wanted:
            pytest.skip(f"the files were made with {name} {wanted}, which is {found} here")
    # A separate process, which has another hash order.
    command = [sys.executable, generate.__file__, "--out", str(tmp_path)]
    subprocess.run(command, check=True)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    data = FOLDER / "data"
    assert made == {path.relative_to(data): path.read_bytes() for path in data.rglob("*.jsonl")}
