"""Figures that the README quotes: those of the files that they come from."""

import json
import re
from pathlib import Path

import pytest
from scripts import script

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def measured():
    """The script that writes them; experiments are no package."""
    return script("measured")


def test_tables_are_those_of_the_figures_and_notes(measured):
    figures = json.loads(measured.MEASURED.read_text())
    for path, text in measured.pages(figures).items():
        assert path.read_text() == text, f"{path.name}: make measured"


def test_what_ran_replaces_its_figures_and_nothing_else(measured, tmp_path):
    known = json.loads(measured.MEASURED.read_text())
    (tmp_path / "soak.json").write_text('{"early_bytes": 1048576, "late_bytes": 2097152}')
    (tmp_path / "bench.json").write_text('{"profile": {"ratio": 7.123}}')
    found = measured.collect(known, tmp_path)
    assert {name for name in known if found[name] != known[name]} == {"bench", "soak"}
    assert found["bench"]["mmlu_5_shot"] == known["bench"]["mmlu_5_shot"]
    readme = measured.pages(found)[ROOT / "README.md"]
    assert "7.12 times its time" in readme
    assert "1 MiB after the first hundred, 2 at the end" in readme


PROSE = {
    "experiments/v2.md": r"writes ([\d.]+) % of the capitals in place of ([\d.]+) %,\s+and chooses "
    r"([\d.]+) in place of ([\d.]+) %",
    "docs/architectures.md": r"for (\d+) types of\s+models|\*\* (\d+) of transformers' (\d+) types",
    "experiments/demo.md": r"at a cost of (\d+) points",
}
"""What the README says in words, and the page that it has it from."""


@pytest.mark.parametrize("page", PROSE)
def test_figures_in_words_are_those_of_their_page(page):
    readme = (ROOT / "README.md").read_text()
    quoted = [each for found in re.finditer(PROSE[page], readme) for each in found.groups() if each]
    assert quoted
    said = re.findall(r"[\d.]*\d", (ROOT / page).read_text())
    assert set(quoted) <= set(said)
