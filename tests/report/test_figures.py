import dataclasses
import json
import random

from layerprune.config.schema import METRIC_KEYS
from layerprune.report.curves import make_curves, make_tasks
from layerprune.report.distances import distance_data
from layerprune.report.entry import read_entry
from layerprune.report.figures import make_figures
from layerprune.report.layers import dropped_data
from layerprune.report.scales import SCALES


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
    data = dropped_data(make_curves(map(read_entry, maker.made)))
    found = {}
    for row in data:
        plan = found.setdefault((row["panel"], row["plan"]), set())
        if row["state"] == "dropped":
            plan.add(row["layer"])
    assert found == {("block", "2"): {4, 5}, ("given", "2"): {1, 5}, ("given", "2 (2)"): {1, 6}}
    assert len(data) == 3 * 8


def test_a_healed_curve_with_fewer_plans_has_no_panel_of_its_own(maker):
    maker.curve(counts=(0, 2, 4), write=False)
    maker.curve(counts=(4,), heal="lora", write=False)
    maker.curve(counts=(5,), heal="linear", write=False)
    data = dropped_data(make_curves(map(read_entry, maker.made)))
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
    curves = make_curves(map(read_entry, maker.made))
    profiles = [("a", maker.profile(metric="other"))]
    figures = make_figures(curves, make_tasks(curves), profiles)
    assert [figure.name for figure in figures] == [
        "accuracy-facts",
        "accuracy-boolq",
        "subjects-facts",
        "loss",
        "healing",
        "cost",
        "distances-abcabcabcabc",
        "layers",
    ]
    for figure in figures:
        assert "</svg>" in figure.svg()


def test_every_metric_says_what_its_numbers_are(maker):
    maker.curve(write=False)
    curves = make_curves(map(read_entry, maker.made))
    profiles = [
        ("a", dataclasses.replace(maker.profile(metric=metric), key=metric))
        for metric in METRIC_KEYS
    ]
    figures = make_figures(curves, make_tasks(curves), profiles)
    drawn = [figure for figure in figures if figure.name.startswith("distances-")]
    assert len({figure.title for figure in drawn}) == len(METRIC_KEYS) == len(SCALES)
    for metric, figure in zip(METRIC_KEYS, drawn, strict=True):
        assert SCALES[metric].caption in figure.caption
        assert SCALES[metric].legend in json.dumps(figure.spec, ensure_ascii=False)


def test_distances_below_zero_and_far_above_one_can_be_drawn(maker):
    maker.curve(write=False)
    curves = make_curves(map(read_entry, maker.made))
    profile = maker.profile(metric="perplexity")
    table = [[(end - start) * (start - 3) * 50.0 for end in range(9)] for start in range(9)]
    profile = dataclasses.replace(profile, distances=table)
    data = distance_data(profile)
    assert min(row["distance"] for row in data) < 0
    scale = [row["rescaled"] for row in data if row["rescaled"] is not None]
    assert (min(scale), max(scale)) == (0, 1)
    figures = make_figures(curves, make_tasks(curves), [("a", profile)])
    (figure,) = (figure for figure in figures if figure.name.startswith("distances-"))
    assert "\u22121,000" in figure.svg(), "the legend reaches below zero"


def test_a_lone_point_can_be_drawn(maker):
    maker.point([3], subjects=("capitals",), write=False)
    curves = make_curves(map(read_entry, maker.made))
    for figure in make_figures(curves, make_tasks(curves), []):
        assert "</svg>" in figure.svg()
