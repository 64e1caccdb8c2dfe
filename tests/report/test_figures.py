import copy
import dataclasses
import json
import random

import altair as alt

from layerprune.analysis.curves import make_curves, make_tasks
from layerprune.config.registry import METRICS
from layerprune.report.figures.cost_figures import PARAMETERS, WEIGHTS, size_data
from layerprune.report.figures.curve_data import accuracy_data, error_caption, point_rows
from layerprune.report.figures.distance_figures import best_block_data, distance_data, metric_texts
from layerprune.report.figures.dropped_layers import curves_with_own_plans, dropped_data
from layerprune.report.figures.study_figures import make_figures


def naive(distances, size):
    """The least distance of all positions; of equal ones the deepest."""
    best = None
    for start in range(len(distances) - size):
        if best is None or distances[start][start + size] <= distances[best][best + size]:
            best = start
    return best


def test_the_marked_blocks_are_the_nearest_and_of_equal_ones_the_deepest(maker):
    profile = maker.profile()
    dice = random.Random(0)
    # One decimal: most rows have ties.
    table = [[round(dice.random(), 1) for _ in range(9)] for _ in range(9)]
    for distances in (profile.distances, table, [[0.0] * 9] * 9):
        data = distance_data(dataclasses.replace(profile, distances=distances))
        marked = [(row["size"], row["first_layer"]) for row in data if row["nearest"]]
        assert marked == [(size, naive(distances, size)) for size in range(1, 9)]


def test_the_heat_map_holds_the_matrix(maker):
    profile = maker.profile()
    data = distance_data(profile)
    assert len(data) == 8 * 9 // 2
    for row in data:
        start, size = row["first_layer"], row["size"]
        assert row["distance"] == profile.distances[start][start + size]
    for size in range(1, 8):
        scale = [row["rescaled"] for row in data if row["size"] == size]
        assert (min(scale), max(scale)) == (0, 1)
    assert [row["rescaled"] for row in data if row["size"] == 8] == [None]


def test_dropped_layers_are_shown_once_for_each_plan(maker):
    maker.curve(counts=(0, 2), heal="none", write=False)
    maker.curve(counts=(0, 2), heal="lora", write=False)
    maker.point([1, 5], strategy="given", write=False)
    maker.point([1, 6], strategy="given", write=False)
    data = dropped_data(curves_with_own_plans(make_curves(maker.made)))
    found = {}
    for row in data:
        plan = found.setdefault((row["panel"], row["plan"]), set())
        if row["state"] == "dropped":
            plan.update(range(row["first"], row["last"] + 1))
    assert found == {("block", "2"): {4, 5}, ("given", "2"): {1, 5}, ("given", "2 (2)"): {1, 6}}
    shown = [layer for row in data for layer in range(row["first"], row["last"] + 1)]
    assert sorted(shown) == sorted([*range(8)] * 3)


def test_a_healed_curve_with_fewer_plans_has_no_panel_of_its_own(maker):
    maker.curve(counts=(0, 2, 4), write=False)
    maker.curve(counts=(4,), heal="lora", write=False)
    maker.curve(counts=(5,), heal="linear", write=False)
    data = dropped_data(curves_with_own_plans(make_curves(maker.made)))
    plans = {(row["panel"], row["plan"]) for row in data}
    assert plans == {
        ("block · not healed", "2"),
        ("block · not healed", "4"),
        ("block · linear", "5"),
    }


def test_every_kind_of_study_can_be_drawn(maker):
    for model in ("a", "b"):
        for heal in ("none", "lora", "qlora"):
            maker.curve(model=model, heal=heal, chance=None, write=False)
        maker.point(
            [2, 5], model=model, strategy="given", tasks=("boolq",), subjects=(), write=False
        )
    curves = make_curves(maker.made)
    profiles = [("a", maker.profile(metric="other"))]
    figures = list(make_figures(curves, make_tasks(curves), profiles))
    assert [figure.name for figure in figures] == [
        "accuracy-facts",
        "accuracy-boolq",
        "subjects-facts",
        "loss",
        "healing",
        "cost",
        "size",
        "nearest",
        "distances-abcabcabcabc",
        "layers",
    ]
    for figure in figures:
        spec = copy.deepcopy(figure.spec)
        del spec["config"]["legend"]["layout"]  # Vega's alone; Vega-Lite hands it on
        alt.Chart.from_dict(spec)  # raises where it is not as Vega-Lite's schema has it
        assert "</svg>" in figure.svg()


def test_every_metric_says_what_its_numbers_are(maker):
    maker.curve(write=False)
    curves = make_curves(maker.made)
    profiles = [
        ("a", dataclasses.replace(maker.profile(metric=metric), key=metric))
        for metric in METRICS.choices()
    ]
    figures = list(make_figures(curves, make_tasks(curves), profiles))
    drawn = [figure for figure in figures if figure.name.startswith("distances-")]
    assert len({figure.title for figure in drawn}) == len(METRICS.choices())
    for metric, figure in zip(METRICS.choices(), drawn, strict=True):
        legend, meaning = metric_texts(metric)
        assert meaning in figure.caption
        assert legend in json.dumps(figure.spec, ensure_ascii=False)


def test_distances_below_zero_and_far_above_one_can_be_drawn(maker):
    maker.curve(write=False)
    curves = make_curves(maker.made)
    profile = maker.profile(metric="perplexity")
    table = [[(end - start) * (start - 3) * 50.0 for end in range(9)] for start in range(9)]
    profile = dataclasses.replace(profile, distances=table)
    data = distance_data(profile)
    assert min(row["distance"] for row in data) < 0
    scale = [row["rescaled"] for row in data if row["rescaled"] is not None]
    assert (min(scale), max(scale)) == (0, 1)
    figures = list(make_figures(curves, make_tasks(curves), [("a", profile)]))
    (figure,) = (figure for figure in figures if figure.name.startswith("distances-"))
    assert "\u22121,000" in figure.svg(), "the legend reaches below zero"


def test_a_lone_point_can_be_drawn(maker):
    maker.point([3], subjects=("capitals",), write=False)
    curves = make_curves(maker.made)
    for figure in make_figures(curves, make_tasks(curves), []):
        assert "</svg>" in figure.svg()


def test_the_nearest_blocks_are_those_of_the_heat_map(maker):
    profile = maker.profile()
    marked = {
        row["size"]: (row["first_layer"], row["distance"])
        for row in distance_data(profile)
        if row["nearest"]
    }
    data = best_block_data([("tiny", profile)], ["tiny"])
    assert {row["size"]: (row["first_layer"], row["distance"]) for row in data} == marked
    assert all(row["last_layer"] == row["first_layer"] + row["size"] - 1 for row in data)


def test_matrices_of_one_model_are_told_apart_by_what_their_curves_differ_in(maker):
    maker.curve(write=False)
    maker.curve(write=False)
    other = dataclasses.replace(maker.profile(), key="other")
    for at in range(3, 6):
        with maker.editing(at) as content:
            content["identity"]["data"]["calibration"] = "questions"
            content["plan"]["profile"] = "other"
    curves = make_curves(maker.made)
    profiles = [("tiny", maker.profile()), ("tiny", other)]
    figures = {each.name: each for each in make_figures(curves, make_tasks(curves), profiles)}
    lines = {datum["line"] for datum in figures["nearest"].data}
    assert lines == {"tiny · block", "tiny · block · data.calibration=questions"}
    for name in lines:
        assert any(each.title.endswith(f"every block of {name}") for each in figures.values())


def test_sizes_are_those_of_the_records_and_bytes_follow_from_them(maker):
    maker.curve(counts=(0, 2, 4), write=False)
    maker.curve("deepest", counts=(0, 2), write=False)
    maker.point([3], model="lone", write=False)
    data = size_data(make_curves(maker.made))
    found = {(row["panel"], row["layers_dropped"]): row["value"] for row in data}
    assert len(found) == len(data) == 6
    for count in (0, 2, 4):
        assert found[PARAMETERS, count] == (1000 - count) / 1e6
        assert found[WEIGHTS, count] == (1000 - count) * 4 / 2**30


def test_bytes_of_weights_in_few_bits_are_those_that_were_counted(maker):
    maker.curve(counts=(0, 2), write=False)
    maker.curve(counts=(0, 2), write=False)
    for at in (2, 3):
        with maker.editing(at) as content:
            content["identity"]["model"]["quantization"] = "nf4"
            content["model"]["weight_bytes"] = 700 - len(content["plan"]["dropped"])
    data = size_data(make_curves(maker.made))
    found = {
        (row["line"], row["layers_dropped"]): row["bytes"]
        for row in data
        if row["panel"] == WEIGHTS
    }
    assert found == {
        ("tiny · float32", 0): 4000,
        ("tiny · float32", 2): 3992,
        ("tiny · nf4", 0): 700,
        ("tiny · nf4", 2): 698,
    }


def test_errors_are_bands_where_curves_are_dense(maker):
    maker.curve(counts=range(8), num_layers=10, write=False)
    maker.curve("deepest", counts=(0, 2), num_layers=10, write=False)
    data = point_rows(accuracy_data(make_curves(maker.made), "facts"))
    kinds = {(row["curve"], row["error"]) for row in data}
    assert kinds == {("block", "band"), ("deepest", "bar")}
    assert error_caption(data) == "bands and bars: ±1 standard error"


def test_of_many_subjects_and_curves_whole_curves_are_left_out_and_it_is_said(maker, monkeypatch):
    monkeypatch.setattr("layerprune.report.figures.accuracy_figures.MAX_SUBJECT_POINTS", 14)
    for strategy in ("block", "deepest"):
        for heal in ("none", "lora"):
            maker.curve(strategy, heal=heal, write=False)
    curves = make_curves(maker.made)
    figures = list(make_figures(curves, make_tasks(curves), []))
    (figure,) = (figure for figure in figures if figure.name == "subjects-facts")
    assert {row["curve"] for row in point_rows(figure.data)} == {
        "block · not healed",
        "deepest · not healed",
    }
    assert len(point_rows(figure.data)) == 2 * 3 * 2  # of two curves, on two subjects, all points
    assert "2 of 4 curves" in figure.caption


def test_one_model_that_was_asked_in_several_ways_has_its_words_once(maker):
    maker.curve(questions=20, limit=20, write=False)
    maker.curve(questions=7, limit=7, write=False)
    curves = make_curves(maker.made)

    def labels(some):
        data = accuracy_data(some, "facts")
        return {row["value"]: row["label"] for row in data if row["kind"] == "dense"}

    found = labels(curves)
    (low, nothing), (high, said) = sorted(found.items())
    assert (nothing, said) == ("", f"dense model {low:.1%} to {high:.1%}")
    assert labels(curves[:1]) in (
        {low: f"dense model {low:.1%}"},
        {high: f"dense model {high:.1%}"},
    )
