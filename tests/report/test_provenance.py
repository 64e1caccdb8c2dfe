"""With what a study was made, on the page and on a terminal."""

import numpy as np
import pytest

from layerprune.prune.distance_matrix import DistanceMatrix
from layerprune.prune.reference import references
from layerprune.record.store import Store
from layerprune.report import draw, read
from layerprune.report.tables.provenance import BLOCKS, agreements, provenance_facts
from layerprune.report.terminal import show

LLAMA = references()[0]
PAPERS = {"metric": "angular", "metric_tokens": "last"}


def profile(starts=LLAMA.starts, num_layers=LLAMA.num_layers, **settings):
    """Distances whose least block of n layers begins at the n-th start."""
    found = np.ones((num_layers + 1, num_layers + 1))
    for count, start in enumerate(starts, start=1):
        found[start, start + count] = 0.5
    return DistanceMatrix("abcabcabcabc", {**PAPERS, **settings}, 4, found.tolist())


@pytest.fixture
def llama(maker):
    """A study of one of the authors' models: one block a layer off theirs, another five."""
    starts = list(LLAMA.starts)
    starts[0] += 1
    starts[2] -= 5
    maker.curve(model="llama2_7b", num_layers=32)
    Store(maker.study).write_distances(profile(starts))
    return maker


def said_of(starts):
    return " ".join(map(str, starts))


@pytest.mark.parametrize("text_curves", [False, True])
def test_a_terminal_shows_the_authors_blocks_beside_those_found(llama, capsys, text_curves):
    show(read([llama.study]), text_curves)
    printed = capsys.readouterr().out
    assert all(len(line) <= 100 for line in printed.splitlines())
    said = " ".join(printed.split())
    assert f"{BLOCKS.capitalize()}: llama2_7b (distances abcabcabcabc)" in said
    assert "of the 24 blocks that the authors removed, 22 exact, 23 within one layer" in said
    assert "5 layers off at most" in said
    assert f"the authors': {said_of(LLAMA.starts)}" in said
    assert f"here: 24 24 18 {said_of(LLAMA.starts[3:])};" in said


def test_the_page_shows_the_same(llama):
    draw(llama.study)
    page = (llama.study / "report.html").read_text(encoding="utf-8")
    (said,) = agreements(read([llama.study]).profiles)
    assert f"<dt>the paper&#39;s blocks</dt><dd>{said.replace(chr(39), '&#39;')}</dd>" in page


def test_no_other_study_speaks_of_them(drawn, capsys):
    show(read([drawn.study]))
    assert "authors" not in capsys.readouterr().out
    assert "authors" not in (drawn.study / "report.html").read_text(encoding="utf-8")


def test_blocks_by_another_metric_or_of_another_model_are_not_held_against_them():
    assert len(agreements([("Llama-2-7b-hf", profile())])) == 1
    for model, other in (
        ("llama2_7b", profile(metric="cosine")),
        ("llama2_7b", profile(metric_tokens="all")),
        ("llama2_7b", profile(num_layers=40)),
        ("gpt2", profile()),
    ):
        assert agreements([(model, other)]) == []


def test_seconds_of_healing_are_told_apart(maker):
    maker.curve(heal="lora", counts=(0, 2))
    report = read([maker.study])
    made = dict(provenance_facts(report.curves, report.profiles))
    assert made["points"] == ["2, which took 4 s of evaluation and 30 s of healing"]
