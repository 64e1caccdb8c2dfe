"""Measured figures that a script writes into the docs."""

import json
from pathlib import Path

import pytest
from scripts import script

ROOT = Path(__file__).parents[2]


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
    page = measured.pages(found)[ROOT / "docs/benchmarks.md"]
    assert "7.12 times its time" in page
    assert "1 MiB after the first hundred, 2 at the end" in page
