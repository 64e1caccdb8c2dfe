"""Write the JSONL files of the skills tasks: questions that ask for more than one fact.

Run ``python tools/fact_questions/skills.py``. It needs no package beyond the project's own: the
facts come from the facts tasks, and the prose is the bundled held-out text. The output depends only
on ``SEED`` and on these; the text differs between versions of Python.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from layerprune.config.schema import DataConfig
from layerprune.data.text import read_text

SEED = 2026
PROSE = "f4e909b94251"
"""SHA-256 of the held-out text that the committed files were made with: Python 3.11's."""
TASKS = Path(__file__).parents[2] / "layerprune" / "evaluate" / "tasks"
OPTIONS, DEV_ROWS, TEST_ROWS = 4, 4, 100
PAIRS = range(6, 31, 4)
"""Of a word and a number, in a text to recall one from."""
WORDS = [
    "apple", "river", "stone", "cloud", "horse", "paper", "window", "garden", "bottle", "candle",
    "bridge", "forest", "hammer", "ladder", "mirror", "needle", "orange", "pencil", "rabbit",
    "silver", "table", "umbrella", "violin", "wagon", "anchor", "basket", "carpet", "donkey",
    "engine", "feather", "guitar", "helmet", "island", "jacket", "kettle", "lemon", "magnet",
    "napkin", "ocean", "pillow",
]  # fmt: skip

Row = tuple[str, str, list[str]]
"""A question, its answer, and its wrong options."""


def facts(subject: str, question: str) -> dict[str, str]:
    """Return the answers of a subject's facts, by the name that ``question`` asks about."""
    files = [TASKS / "facts" / "data" / split / f"{subject}.jsonl" for split in ("dev", "test")]
    rows = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    names = [re.fullmatch(question, row["question"]) for row in rows]
    return {
        name[1]: row["choices"][row["answer"]]
        for name, row in zip(names, rows, strict=True)
        if name is not None
    }


def capitals_of_the_same_continent() -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the capital of each country, and the other capitals of its continent."""
    capitals = facts("capitals", r"What is the capital city of (.+)\?")
    continents = facts("continents", r"Which continent is (.+) in\?")
    return capitals, {
        country: [
            capitals[other]
            for other in capitals
            if other != country and continents.get(other) == continents[country]
        ]
        for country in capitals
        if country in continents
    }


def neighbouring_capitals(rng: random.Random) -> Iterator[Row]:
    """Yield capitals among capitals of the same continent."""
    capitals, neighbours = capitals_of_the_same_continent()
    for country in rng.sample(sorted(neighbours), len(neighbours)):
        if len(neighbours[country]) >= OPTIONS - 1:
            question = f"Question: What is the capital city of {country}?\nAnswer:"
            yield question, capitals[country], rng.sample(neighbours[country], OPTIONS - 1)


def two_hops(rng: random.Random) -> Iterator[Row]:
    """Yield the capital of the country of a city, among capitals of the same continent."""
    capitals, neighbours = capitals_of_the_same_continent()
    cities = facts("cities", r"Which country is (.+) in\?")
    countries = {
        city: country
        for city in rng.sample(sorted(cities), len(cities))
        for country in (cities[city], f"the {cities[city]}")
        if country in neighbours
    }
    # With repeats: a capital of many cities is as often a wrong option as it is an answer.
    answers = [capitals[country] for country in countries.values()]
    for city, country in countries.items():
        pool = [capital for capital in answers if capital in neighbours[country]]
        pool += neighbours[country]
        wrong = list(dict.fromkeys(rng.sample(pool, len(pool))))[: OPTIONS - 1]
        if len(wrong) == OPTIONS - 1:
            question = (
                f"Question: What is the capital city of the country that {city} is in?\nAnswer:"
            )
            yield question, capitals[country], wrong


def sums(rng: random.Random) -> Iterator[Row]:
    """Yield sums of two numbers of two digits, among sums that are off by one or by ten."""
    while True:
        first, second = rng.randrange(11, 90), rng.randrange(11, 90)
        answer = first + second
        near = [answer + error for error in (-11, -10, -9, -1, 1, 9, 10, 11)]
        yield f"{first} + {second} =", str(answer), list(map(str, rng.sample(near, OPTIONS - 1)))


def recall(rng: random.Random) -> Iterator[Row]:
    """Yield the number that goes with a word, among others of the text; texts grow in length."""
    while True:
        for length in PAIRS:
            words, numbers = rng.sample(WORDS, length), rng.sample(range(10, 100), length)
            place = rng.randrange(length)
            pairs = zip(words, numbers, strict=True)
            text = ", ".join(f"{word} {number}" for word, number in pairs)
            others = [str(number) for number in numbers if number != numbers[place]]
            yield f"{text}.\n{words[place]}", str(numbers[place]), rng.sample(others, OPTIONS - 1)


def cloze(rng: random.Random) -> Iterator[Row]:
    """Yield the last word of a passage of held-out prose, among other words of the passage."""
    passages = []
    for document in read_text(DataConfig()).heldout:
        for paragraph in re.split(r"\n\s*\n", document):
            text = " ".join(paragraph.split())
            # Grammar and code have other characters than prose.
            if re.fullmatch(r"[A-Z][\w\s,;:()'\"`./=+\[\]-]+[.]", text) and len(text.split()) > 12:
                passages.append(text)
    for text in rng.sample(passages, len(passages)):
        start, _, last = text.removesuffix(".").rpartition(" ")
        others = sorted({
            word for word in re.findall(r"\b[a-z]{4,}\b", start)
            if word != last and abs(len(word) - len(last)) <= 3
        })  # fmt: skip
        if re.fullmatch(r"[a-z]{4,}", last) and len(others) >= OPTIONS - 1:
            yield start, last, rng.sample(others, OPTIONS - 1)


SKILLS: dict[str, Callable[[random.Random], Iterator[Row]]] = {
    "capitals": neighbouring_capitals,
    "two_hops": two_hops,
    "sums": sums,
    "recall": recall,
    "cloze": cloze,
}


def rows(skill: str) -> list[dict[str, Any]]:
    """Return a skill's rows, the few-shot ones first, without a question that comes twice."""
    # One generator for each: a change in one leaves the others' files alone.
    rng = random.Random(f"{SEED} {skill}")
    made: dict[str, dict[str, Any]] = {}
    positions: list[int] = []
    for question, answer, wrong in SKILLS[skill](rng):
        if question in made:
            continue
        positions = positions or rng.sample(range(OPTIONS), OPTIONS)
        position = positions.pop()
        choices = [*wrong[:position], answer, *wrong[position:]]
        made[question] = {"question": question, "choices": choices, "answer": position}
        if len(made) == DEV_ROWS + TEST_ROWS:
            break
    return list(made.values())


def write(out_dir: Path) -> dict[str, int]:
    """Write ``test/*.jsonl`` and ``dev/*.jsonl``, and return the number of test rows of each."""
    counts = {}
    for skill in SKILLS:
        made = rows(skill)
        for split, part in (("dev", made[:DEV_ROWS]), ("test", made[DEV_ROWS:])):
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in part]
            (out_dir / split).mkdir(parents=True, exist_ok=True)
            path = out_dir / split / f"{skill}.jsonl"
            path.write_text("".join(lines), encoding="utf-8", newline="\n")
        counts[skill] = len(made) - DEV_ROWS
    return counts


def main() -> None:
    """Write the files and print how many test rows each has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=TASKS / "skills" / "data", help="folder")
    for name, count in write(parser.parse_args().out).items():
        print(f"{name}: {count}")


if __name__ == "__main__":
    main()
