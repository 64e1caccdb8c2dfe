"""How well the distance ranks blocks: against scipy, naive ranks, and records made up for it."""

import itertools
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from scripts import LARGEST, cells, script
from studies import Maker, make_profile

from layerprune.record.store import Store
from layerprune.report import read

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
LAYERS = 12


@pytest.fixture(scope="module")
def predictor():
    return script("predictor")


@pytest.fixture
def study(tmp_path):
    """Every block of three and of four layers, with a loss that is twice its distance."""
    maker = Maker(tmp_path / "study")
    matrix = np.random.default_rng(0).random((LAYERS + 1, LAYERS + 1))
    profile = replace(make_profile(LAYERS), distances=matrix.tolist())
    Store(maker.study).write_distances(profile)
    maker.point((), num_layers=LAYERS)
    for size in (3, 4):
        for first in range(LAYERS - size + 1):
            maker.point(
                range(first, first + size), strategy="given", num_layers=LAYERS, write=False
            )
            with maker.editing() as content:
                content["identity"]["prune"]["layers"] = list(range(first, first + size))
                content["loss"]["nats"] = 2 * matrix[first, first + size]
            Store(maker.study).write(maker.made[-1])
    return maker


def test_a_rank_correlation_is_scipys(predictor):
    dice = np.random.default_rng(1)
    for _ in range(50):
        a, b = dice.integers(0, 6, (2, 7, 12))  # with ties
        wanted = [spearmanr(*pair).statistic for pair in zip(a, b, strict=True)]
        assert predictor.spearman(a, b) == pytest.approx(wanted)
        assert predictor.spearman(a[0], b[0]) == pytest.approx(wanted[0])
    assert predictor.spearman([1, 1, 1], [1, 2, 3]) == 0


def test_blocks_are_read_with_the_distances_that_were_measured(predictor, study):
    (blocks,) = predictor.read_blocks(read([study.study]), "facts").values()
    assert [(block.size, block.first) for block in blocks] == [
        (size, first) for size in (3, 4) for first in range(LAYERS - size + 1)
    ]
    for block in blocks:
        assert block.loss == pytest.approx(2 * block.distance)
    assert {block.layers for block in blocks} >= {"0-2", "8-11"}


def test_what_is_no_block_that_was_only_cut_is_left_out(predictor, study):
    before = predictor.read_blocks(read([study.study]), "facts")
    study.point((1, 2, 4), strategy="given", num_layers=LAYERS)
    study.point((1, 2), strategy="given", num_layers=LAYERS, heal="lora")
    # The same block again, as a strategy would choose it.
    again = study.point((1, 2, 3), num_layers=LAYERS, write=False)
    same = next(point for point in study.made if point.plan.dropped == (1, 2, 3))
    Store(study.study).write(replace(again, loss=same.loss, scores=same.scores))
    assert predictor.read_blocks(read([study.study]), "facts") == before


def test_metrics_are_kept_apart(predictor, study):
    other = make_profile(LAYERS, "dededededede", "cosine")
    Store(study.study).write_distances(other)
    study.point((4, 5), strategy="given", num_layers=LAYERS, write=False)
    with study.editing() as content:
        content["identity"]["metric"] = "cosine"
        content["plan"] |= {"metric": "cosine", "profile": other.key}
    Store(study.study).write(study.made[-1])
    groups = predictor.read_blocks(read([study.study]), "facts")
    assert list(groups) == ["angular", "cosine"]
    assert [block.distance for block in groups["cosine"]] == [other.matrix[4, 6]]


def test_a_study_without_blocks_is_refused(predictor, tmp_path):
    Maker(tmp_path).point(())
    with pytest.raises(SystemExit, match="has no block of layers"):
        predictor.read_blocks(read([tmp_path]), "facts")


def made(predictor, losses, distances, size=3):
    return [
        predictor.Block(first, size, len(losses) + size - 1, distance, loss, 50.0)
        for first, (loss, distance) in enumerate(zip(losses, distances, strict=True))
    ]


def test_correlations_and_advantages_are_those_of_the_blocks(predictor):
    dice = random.Random(2)
    blocks = made(predictor, *([dice.random() for _ in range(20)] for _ in range(2)))
    distance, place = (predictor.PREDICTORS[each] for each in ("distance", "from the end"))
    lost = predictor.OUTCOMES["loss"]
    losses = [block.loss for block in blocks]
    by_distance = spearmanr([block.distance for block in blocks], losses).statistic
    by_place = spearmanr([-block.first for block in blocks], losses).statistic
    found = predictor.correlation(blocks, distance, lost)
    assert found.value == pytest.approx(by_distance)
    assert found.interval.low < found.value < found.interval.high
    gain = predictor.advantage(blocks, distance, place, lost)
    assert gain.value == pytest.approx(by_distance - by_place)
    assert gain.interval.low < gain.value < gain.interval.high
    # A naive bootstrap, drawn by other numbers.
    draws = [dice.choices(blocks, k=20) for _ in range(2000)]
    naive = [
        spearmanr([each.distance for each in some], [each.loss for each in some]).statistic
        for some in draws
    ]
    low, high = np.quantile(naive, [0.025, 0.975])
    assert found.interval.low == pytest.approx(low, abs=0.05)
    assert found.interval.high == pytest.approx(high, abs=0.05)


def test_a_predictor_from_the_middle_is_the_same_from_both_ends(predictor):
    blocks = made(predictor, range(8), range(8))
    middle = [predictor.PREDICTORS["from the middle"](block) for block in blocks]
    assert middle == middle[::-1]
    assert middle[0] == 3.5
    assert min(middle) == 0.5


def test_a_block_that_costs_more_than_foretold_is_named(predictor):
    losses = [float(at) for at in range(10)]
    losses[2] = 100.0
    blocks = made(predictor, losses, [float(at) for at in range(10)])
    gaps = predictor.rank_gaps(blocks)
    for at, gap in enumerate(gaps):
        assert gap == sum(loss < losses[at] for loss in losses) - at
    rows = cells(predictor.misses(blocks))
    # Ranks count from 1; all of the others that move do so by one.
    assert rows[0] == ["3", "2-4", "2.000", "3", "100.000", "10", "+7"]
    assert len(rows) == 1 + predictor.MISSES
    assert {row[-1] for row in rows[1:]} == {"-1"}
    (row,) = cells(predictor.choices(blocks))
    assert row == ["3", "0-2", "0.000", "1 of 10", "0-2", "0.000", "1", "14.300"]


def test_a_study_becomes_tables_and_figures(predictor, study, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(predictor, "FOLDER", tmp_path / "figures")
    monkeypatch.setattr("sys.argv", ["predictor.py", str(study.study)])
    predictor.main()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "## angular"
    tables = [list(some) for line, some in itertools.groupby(said, bool) if line][1:]
    rows = cells(tables[0])
    assert [(row[0], row[2]) for row in rows] == [
        (size, lost) for size in ("3", "4", "all") for lost in ("loss", "accuracy lost")
    ]
    assert all(row[3] == "1.00 [1.00, 1.00]" for row in rows if row[2] == "loss")
    assert [bool(row[6]) for row in rows] == [False] * 4 + [True] * 2, "of one size it says nothing"
    assert cells(tables[1])[0][3] == "1 of 10"
    assert not cells(tables[2]), "none is out of its place"
    for name in ("scatter.png", "places.png"):
        picture = tmp_path / "figures" / name
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size <= LARGEST


def test_blocks_that_hold_a_layer_can_be_left_out(predictor, study, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(predictor, "FOLDER", tmp_path / "figures")
    monkeypatch.setattr("sys.argv", ["predictor.py", str(study.study), "--but", "0"])
    predictor.main()
    tables = [
        list(some) for line, some in itertools.groupby(capsys.readouterr().out.splitlines(), bool)
        if line
    ][1:]  # fmt: skip
    # One of each size has the first layer.
    assert [row[1] for row in cells(tables[0])] == ["9", "9", "8", "8", "17", "17"]
    assert not (tmp_path / "figures").exists()
