"""Labels of dips: what they say, and that they cover nothing."""

import pytest

from layerprune.analysis.curves import make_curves, make_tasks
from layerprune.report.figures import theme
from layerprune.report.figures.accuracy_figures import accuracy_figure
from layerprune.report.figures.dip_labels import dip_rows

COUNTS = (0, 3, 6, 8, 12, 18, 24)
FRACTIONS, VALUES = (-0.016, 0.816), (0.2, 0.9)


def set_accuracy(maker, at, share, questions=200):
    """Let a point answer its first questions correctly."""
    right = round(share * questions)
    with maker.editing(at) as content:
        (score,) = content["scores"]
        score["correct"] = "1" * right + "0" * (questions - right)
        score["measures"]["acc"]["value"] = right / questions


def figure_of(maker):
    curves = make_curves(maker.made)
    return accuracy_figure(curves, make_tasks(curves)[0])


def dips_of(figure):
    return [row for row in figure.data if row["kind"] == "dip"]


@pytest.fixture
def healed_and_unhealed(maker):
    """The curves of the README's figure."""
    shares = {
        "none": (0.795, 0.75, 0.655, 0.315, 0.44, 0.44, 0.24),
        "lora": (0.815, 0.835, 0.675, 0.605, 0.555, 0.50, 0.295),
    }
    options = {"num_layers": 30, "subjects": (), "questions": 200, "limit": None, "write": False}
    for heal in shares:
        maker.curve(counts=COUNTS, heal=heal, **options)
    for at, share in enumerate((*shares["none"], *shares["lora"])):
        set_accuracy(maker, at, share)
    return maker


def test_a_dip_is_labelled_beside_its_dot(healed_and_unhealed):
    figure = figure_of(healed_and_unhealed)
    (row,) = dips_of(figure)
    assert (row["curve"], row["label"]) == ("block · not healed", "dip at n = 8")
    assert (row["fraction"], row["value"]) == (8 / 30, 0.315)
    assert abs(row["dx"]) < 60
    assert 0 <= row["dy"] < 30
    assert "dip at n = 8</text>" in figure.svg()
    assert "block · not healed: dip at n = 8" in figure.alt


def test_a_curve_without_a_dip_has_no_label(healed_and_unhealed):
    set_accuracy(healed_and_unhealed, 3, 0.5)
    figure = figure_of(healed_and_unhealed)
    assert dips_of(figure) == []
    assert "dip" not in figure.alt


def test_a_dip_of_several_seeds_has_no_label(healed_and_unhealed):
    maker = healed_and_unhealed
    maker.curve(
        counts=COUNTS, num_layers=30, subjects=(), questions=200, limit=None, seed=1, write=False
    )
    assert dips_of(figure_of(maker)) == []


def row_of(curve, fraction, value, error=0.0):
    return {
        "kind": "point", "panel": "", "curve": curve, "hue": curve, "mark": curve, "lone": "",
        "joined": True, "fraction": fraction, "layers_dropped": round(30 * fraction),
        "value": value, "low": value - error, "high": value + error, "bar": fraction,
        "error": "bar" if error else "none",
    }  # fmt: skip


def boxes(rows):
    """Left, top, right and bottom of each label in pixels."""
    for row in rows:
        across = (row["fraction"] - FRACTIONS[0]) / (FRACTIONS[1] - FRACTIONS[0])
        down = (VALUES[1] - row["value"]) / (VALUES[1] - VALUES[0])
        x, y = across * theme.WIDTH + row["dx"], down * theme.HEIGHT + row["dy"]
        half = 3 * len(row["label"])
        yield x - half, y - 5.5, x + half, y + 5.5


@pytest.mark.parametrize("below", [0.30, 0.27, 0.24, 0.22])
def test_a_label_avoids_lines_and_other_labels(below):
    v = [("a", 0.1, 0.7), ("a", 0.3, 0.32), ("a", 0.5, 0.6)]
    flat = [("b", fraction / 10, below) for fraction in range(1, 9)]
    data = [row_of(*values, error=0.03) for values in (*v, *flat)]
    data.append({"kind": "chance", "value": 0.25, "label": "chance 25.0%"})
    rows = dip_rows(data, {"a": [9], "b": [9]}, FRACTIONS, VALUES)
    for left, top, right, bottom in boxes(rows):
        assert left >= 0
        assert right <= theme.WIDTH
        assert top >= 0
        assert bottom <= theme.HEIGHT
        for value in (below, 0.25):  # horizontal lines
            height = (VALUES[1] - value) / (VALUES[1] - VALUES[0]) * theme.HEIGHT
            across_flat = left < 640 * 0.816 / 0.832 and right > 640 * 0.116 / 0.832
            assert not (top <= height <= bottom and (across_flat or value == 0.25))
    if len(rows) == 2:
        first, second = boxes(rows)
        assert (
            first[2] < second[0] or second[2] < first[0]
            or first[3] < second[1] or second[3] < first[1]
        )  # fmt: skip


def test_a_label_that_fits_nowhere_is_left_out():
    data = [row_of("a", 0.3, 0.5)]
    for step in range(200):  # lines all over the panel
        data.append({"kind": "dense", "value": 0.2 + 0.7 * step / 200, "label": ""})
    assert dip_rows(data, {"a": [9]}, FRACTIONS, VALUES) == []
    assert len(dip_rows(data[:1], {"a": [9]}, FRACTIONS, VALUES)) == 1


def test_of_several_dips_the_one_that_recovers_most_has_the_label():
    values = ((3, 0.55), (6, 0.7), (8, 0.4), (11, 0.6), (16, 0.3), (20, 0.35))
    data = [row_of("a", n / 30, value) for n, value in values]
    (row,) = dip_rows(data, {"a": [3, 8, 16]}, FRACTIONS, VALUES)
    assert row["label"] == "dip at n = 8"
