"""The skills tasks: balanced, reproducible, and none is solved by its options alone."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from scripts import script

from layerprune.config.compose import compose
from layerprune.config.schema import DataConfig
from layerprune.data.text import read_text
from layerprune.evaluate.eval_tasks import EvalTasks
from layerprune.evaluate.tasks import skills

pytestmark = pytest.mark.quick

DATA = Path(skills.__file__).parent / "data"
SKILLS = ("capitals", "cloze", "recall", "sums", "two_hops")


def rows(skill, split="test"):
    text = (DATA / split / f"{skill}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def answer(row):
    return row["choices"][row["answer"]]


@pytest.fixture
def held_out():
    texts = read_text(DataConfig()).heldout
    if hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12] != script("skills").PROSE:
        pytest.skip("the bundled text of this Python is not the one that the questions come from")
    return texts


@pytest.mark.parametrize("skill", SKILLS)
def test_rows_are_four_choices_with_balanced_answers_and_no_question_twice(skill):
    every_row = [*rows(skill, "dev"), *rows(skill)]
    assert len(rows(skill, "dev")) == 4
    assert len(rows(skill)) >= 60
    assert all(len(set(row["choices"])) == 4 for row in every_row)
    assert len({row["question"] for row in every_row}) == len(every_row)
    for end in range(4, len(every_row), 4):
        assert set(Counter(row["answer"] for row in every_row[:end]).values()) == {end // 4}


@pytest.mark.parametrize("skill", SKILLS)
def test_the_option_that_is_most_often_an_answer_is_not_the_answer(skill):
    answers = Counter(map(answer, rows(skill)))
    # Each row is left out of the counts by which it is guessed.
    right = sum(
        answer(row)
        == max(row["choices"], key=lambda choice: answers[choice] - (choice == answer(row)))
        for row in rows(skill)
    )
    assert right / len(rows(skill)) <= 0.45


def test_answers_are_right():
    for row in rows("sums"):
        first, second = map(int, re.findall(r"\d+", row["question"]))
        assert int(answer(row)) == first + second
    for row in rows("recall"):
        pairs, word = row["question"].split("\n")
        assert dict(pair.split() for pair in pairs.rstrip(".").split(", "))[word] == answer(row)
        assert all(re.search(rf"\b{choice}\b", pairs) for choice in row["choices"])
    for row in rows("cloze"):
        assert all(choice in row["question"] for choice in row["choices"] if choice != answer(row))


def test_passages_stand_in_the_heldout_text(held_out):
    prose = " ".join(" ".join(held_out).split())
    for row in rows("cloze"):
        assert f"{row['question']} {answer(row)}." in prose


def test_two_hops_follow_the_facts():
    capitals = dict(row_pair(r"What is the capital city of (?:the )?(.+)\?", "capitals"))
    countries = dict(row_pair(r"Which country is (.+) in\?", "cities"))
    for row in rows("two_hops"):
        city = re.search(r"country that (.+) is in", row["question"])[1]
        assert capitals[countries[city]] == answer(row)
        assert city != answer(row)


def row_pair(pattern, subject):
    facts = DATA.parents[1] / "facts" / "data"
    for split in ("dev", "test"):
        for line in (facts / split / f"{subject}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield re.fullmatch(pattern, row["question"])[1], answer(row)


def test_the_program_writes_the_same_files(tmp_path, held_out):
    counts = script("skills").write(tmp_path)
    assert counts == {skill: len(rows(skill)) for skill in SKILLS}
    for split in ("dev", "test"):
        for skill in SKILLS:
            file = f"{split}/{skill}.jsonl"
            assert (tmp_path / file).read_bytes() == (DATA / file).read_bytes()


def test_lm_eval_loads_them_as_one_group():
    tasks = EvalTasks(compose("eval=skills").eval)
    tasks.load()
    assert set(tasks._loaded["tasks"]) == {f"skills_{skill}" for skill in SKILLS}
