"""Figures as they are printed: sizes, colours, markers, and what their axes show."""

import re

import pytest

from layerprune.analysis.curves import make_curves, make_tasks
from layerprune.config.schema import FigureWidth
from layerprune.report import draw
from layerprune.report.figures import theme
from layerprune.report.figures.accuracy_figures import accuracy_figure
from layerprune.report.figures.chart import study_style
from layerprune.report.figures.curve_data import point_rows
from layerprune.report.figures.healing_figure import healing_figure, training_figure
from layerprune.report.figures.setting_figure import setting_figure
from layerprune.report.figures.study_figures import make_figures

POINTS_PER_INCH = 72
COLUMN_INCHES = 3.3


def drawn(maker, name="accuracy-facts"):
    curves = make_curves(maker.made)
    figures = {figure.name: figure for figure in make_figures(curves, make_tasks(curves), [])}
    return figures[name]


@pytest.mark.slow
def test_every_label_can_be_read_in_a_column(maker):
    for heal in ("none", "lora", "seam", "full", "tail", "distill", "linear", "qlora"):
        maker.curve(heal=heal)
    maker.curve("deepest", speed=True)
    maker.profile()
    report = draw(maker.study, width=FigureWidth.column)
    pictures = [path for path in report.written if path.suffix == ".svg"]
    assert len(pictures) >= 9
    for picture in pictures:
        svg = picture.read_text()
        width = float(re.search(r'<svg[^>]* width="([\d.]+)"', svg)[1])
        smallest = min(float(size) for size in re.findall(r'font-size="([\d.]+)px"', svg))
        printed = smallest * COLUMN_INCHES * POINTS_PER_INCH / width
        assert printed >= 6, (picture.name, width, smallest)
        assert picture.with_suffix(".pdf").read_bytes().startswith(b"%PDF-")


def test_healed_and_unhealed_curves_share_a_colour_and_differ_in_dots_and_lines(maker):
    maker.curve(write=False)
    maker.curve(heal="lora", write=False)
    rows = point_rows(drawn(maker).data)
    assert {(row["hue"], row["healed"]) for row in rows} == {
        ("block", "healed"), ("block", "unhealed"),
    }  # fmt: skip
    svg = drawn(maker).svg()
    hollow = re.findall(rf'fill="{theme.BACKGROUND}"[^>]*stroke="{theme.HUES[0]}"', svg)
    assert len(hollow) == len(rows) / 2


def test_a_lone_healed_point_has_its_recipe_beside_it(maker):
    maker.curve(write=False)
    maker.curve(counts=(4,), heal="seam", write=False)
    lone = {row["layers_dropped"]: row["lone"] for row in point_rows(drawn(maker).data)
            if row["lone"]}  # fmt: skip
    assert lone == {4: "seam"}
    assert ">seam<" in drawn(maker).svg()


def test_seeds_are_tints_of_one_colour(maker):
    for seed in (0, 1, 2):
        maker.curve(heal="lora", seed=seed, write=False)
    style = study_style(make_curves(maker.made))
    assert style.hues == ["seed 0", "seed 1", "seed 2"]
    colors = theme.tints(style.bases)
    assert colors[0] == theme.HUES[0]
    lightness = [sum(int(color[at : at + 2], 16) for at in (1, 3, 5)) for color in colors]
    assert lightness == sorted(set(lightness))


def test_names_in_a_legend_are_what_differs(maker):
    for rank in (2, 8, 64):
        maker.curve(heal="lora", write=False)
        for at in range(-3, 0):
            with maker.editing(at) as content:
                content["identity"]["heal"]["rank"] = rank
    assert study_style(make_curves(maker.made)).hues == [
        "heal.rank=2", "heal.rank=8", "heal.rank=64",
    ]  # fmt: skip


def test_a_setting_that_is_a_number_is_an_axis(maker):
    for rank in (2, 8, 64):
        maker.curve(counts=(2, 4), heal="lora", write=False)
        for at in (-2, -1):
            with maker.editing(at) as content:
                content["identity"]["heal"]["rank"] = rank
    curves = make_curves(maker.made)
    figure = setting_figure(curves, make_tasks(curves)[0])
    points = {(row["line"], row["setting"], row["value"]) for row in figure.data}
    assert points == {
        (f"block · {point.num_dropped} layers removed", float(point.settings["heal.rank"]),
         point.accuracy("facts").value)
        for point in maker.made
    }  # fmt: skip
    assert setting_figure(curves[:2], make_tasks(curves)[0]) is None


def test_a_panel_for_each_of_many_curves_with_the_unhealed_one_in_all(maker):
    recipes = ("lora", "seam", "full", "tail", "distill", "qlora")
    for heal in ("none", *recipes):
        maker.curve(heal=heal, write=False)
    curves = make_curves(maker.made)
    figure = accuracy_figure(curves, make_tasks(curves)[0])
    panels = {}
    for row in point_rows(figure.data):
        panels.setdefault(row["panel"], set()).add(row["recipe"])
    assert panels == {recipe: {"none", recipe} for recipe in recipes}


def test_chance_far_below_the_curves_is_said_and_does_not_flatten_them(maker):
    maker.curve(counts=(0, 1), num_layers=40, write=False)
    figure = drawn(maker)
    assert not [row for row in figure.data if row["kind"] == "chance"]
    assert "chance, 25.0%, is below" in figure.caption


def test_training_losses_of_other_objectives_have_panels_of_their_own(maker):
    for heal in ("lora", "seam", "distill"):
        maker.curve(counts=(2, 4), heal=heal, write=False)
    curves = make_curves(maker.made)
    beside = {row["curve"] for row in healing_figure(curves).data if row["kind"] == "training"}
    assert beside == {"block · lora"}
    assert {row["panel"] for row in training_figure(curves).data} == {"seam", "distill"}
