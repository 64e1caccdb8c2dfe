import json
from statistics import median

import pytest

from layerprune.analysis.curves import make_curves, make_tasks
from layerprune.report import draw
from layerprune.report.figures.chart import study_style
from layerprune.report.figures.cost_figures import MEMORY, TIME, training_cost_data
from layerprune.report.figures.healing_figure import MAX_HELDOUT, MAX_TRAINING, healing_data
from layerprune.report.figures.study_figures import make_figures
from layerprune.report.tables.healing_table import make_healing_table, short
from layerprune.report.terminal import show


def curves_of(maker):
    return make_curves(maker.made)


def healing_figure(curves):
    figures = make_figures(curves, make_tasks(curves), [])
    found = [figure for figure in figures if figure.name == "healing"]
    return found[0] if found else None


@pytest.fixture
def healed(maker):
    """One rule, not healed and healed by three recipes."""
    maker.curve(counts=(0, 2, 4), write=False)
    for heal in ("lora", "full", "linear"):
        maker.curve(counts=(2, 4), heal=heal, write=False)
    return maker


def test_the_lines_are_those_of_the_records(healed):
    data = healing_data(curves_of(healed))
    trained = [point for point in healed.made if point.healing and point.healing.recipe != "linear"]
    assert {datum["point"] for datum in data if datum["kind"] != "dense"} == {
        point.key for point in trained
    }
    for point in trained:
        mine = [datum for datum in data if datum.get("point") == point.key]
        assert {datum["panel"] for datum in mine} == {f"{point.num_dropped} layers removed"}
        for kind, name in (("training", "loss"), ("heldout", "heldout")):
            found = [(datum["step"], datum["value"]) for datum in mine if datum["kind"] == kind]
            assert found == [
                (step.step, getattr(step, name))
                for step in point.healing.steps
                if getattr(step, name) is not None
            ]
    # The goal: the dense model, once in each panel.
    dense = [(datum["panel"], datum["value"]) for datum in data if datum["kind"] == "dense"]
    assert dense == [("2 layers removed", 3.0), ("4 layers removed", 3.0)]


def test_long_runs_are_thinned_and_say_so(maker):
    maker.point([3], heal="lora", steps=1000, write=False)
    with maker.editing() as content:
        for step in content["healing"]["steps"]:
            step["heldout"] = 5.0 - step["step"] / 1000
    steps = maker.made[0].healing.steps
    curves = curves_of(maker)
    data = healing_data(curves)
    training = [datum for datum in data if datum["kind"] == "training"]
    assert len(training) == MAX_TRAINING
    first = [step.loss for step in steps[1:6]]
    assert (training[0]["step"], training[0]["over"]) == (3, 5)
    assert training[0]["value"] == pytest.approx(sum(first) / 5)
    heldout = [datum for datum in data if datum["kind"] == "heldout"]
    assert len(heldout) == MAX_HELDOUT
    assert (heldout[0]["step"], heldout[-1]["step"]) == (0, 1000)
    assert all(datum["value"] == steps[datum["step"]].heldout for datum in heldout)
    assert "means over up to 5 steps" in healing_figure(curves).caption


def test_the_figure_says_its_numbers(healed):
    figure = healing_figure(curves_of(healed))
    for point in healed.made:
        if point.healing is None or point.healing.recipe == "linear":
            continue
        measured = [step for step in point.healing.steps if step.heldout is not None]
        losses = ", ".join(f"{step.heldout:.3f} at step {step.step}" for step in measured)
        name = f"block · {point.healing.recipe}, {point.num_dropped} layers removed"
        assert f"{name}: held-out {losses}; training" in figure.alt
    assert "linear" not in figure.alt
    assert "</svg>" in figure.svg()


def test_the_cost_of_a_step_is_a_curve(healed):
    curves = curves_of(healed)
    data = training_cost_data(curves)
    assert {datum["curve"] for datum in data} == {"block · full", "block · lora"}
    for point in healed.made:
        if point.healing is None or point.healing.recipe == "linear":
            continue
        mine = {
            datum["panel"]: datum["value"]
            for datum in data
            if datum["curve"].endswith(point.healing.recipe)
            and datum["layers_dropped"] == point.num_dropped
        }
        seconds = [step.seconds for step in point.healing.steps[1:]]
        tokens = point.healing.tokens / len(seconds)
        assert mine[TIME] == pytest.approx(1000 * median(seconds) / tokens)
        assert mine[MEMORY] == pytest.approx(point.healing.peak_memory_bytes / 2**30)
    (figure,) = (each for each in make_figures(curves, [], []) if each.name == "cost")
    assert "full, 4 layers removed" in figure.alt
    assert "</svg>" in figure.svg()


def test_a_single_fraction_is_no_curve_of_cost(maker):
    maker.point([3], heal="lora", write=False)
    assert training_cost_data(curves_of(maker)) == []


def test_a_recipe_has_its_colour_in_every_figure(healed):
    curves = curves_of(healed)
    hues = study_style(curves).hues
    assert hues == ["unhealed", "full", "linear", "lora"]
    for figure in make_figures(curves, make_tasks(curves), []):
        text = json.dumps(figure.spec, ensure_ascii=False)
        if figure.name in ("accuracy-facts", "loss", "healing"):
            assert json.dumps(hues, ensure_ascii=False) in text
        if figure.name == "loss":  # as in the paper
            assert '"domain": ["healed", "unhealed"], "range": [[1, 0], [2, 3]]' in text


def test_the_table_holds_cost_and_effect(healed):
    curves = curves_of(healed)
    table = make_healing_table(curves, make_tasks(curves))
    rows = {(row[0], int(row[1])): row for row in table.rows}
    points = [point for point in healed.made if point.healing is not None]
    assert len(rows) == len(table.rows) == len(points)
    before = {point.num_dropped: point for point in healed.made if point.healing is None}
    for point in points:
        healing = point.healing
        row = rows[healing.recipe, point.num_dropped]
        then, now = (each.scores[0].measures["acc"] for each in (before[point.num_dropped], point))
        assert row[2:] == (
            short(healing.tokens),
            f"{healing.tokens / healing.seconds:,.0f}",
            f"{healing.seconds:.1f}",
            f"{healing.peak_memory_bytes / 2**30:.2f}",
            short(healing.trainable_parameters),
            f"{healing.heldout_before:.3f} → {healing.heldout_after:.3f}",
            f"{100 * then.value:.1f} ± {100 * then.stderr:.1f} → "
            f"{100 * now.value:.1f} ± {100 * now.stderr:.1f}",
        )
    for count in (2, 4):
        assert f"n={count} ridge 0.01, explained 0.4322" in table.note
    assert "lacks this point" not in table.note


def test_only_the_same_layers_and_questions_are_a_before(maker):
    maker.point([3, 4], write=False)
    maker.point([5], write=False)
    maker.point([5, 6], limit=5, write=False)
    maker.point([5, 6], heal="lora", write=False)
    curves = curves_of(maker)
    table = make_healing_table(curves, make_tasks(curves))
    (row,) = table.rows
    assert "lacks this point" in table.note
    acc = maker.made[-1].scores[0].measures["acc"]
    assert row[-1] == f"→ {100 * acc.value:.1f} ± {100 * acc.stderr:.1f}"


def test_curves_have_their_whole_name_where_recipes_are_not_enough(maker):
    for strategy in ("block", "deepest"):
        maker.point([3], strategy=strategy, heal="lora", write=False)
    curves = curves_of(maker)
    table = make_healing_table(curves, make_tasks(curves))
    assert [row[0] for row in table.rows] == ["block · lora", "deepest · lora"]
    assert table.columns[0] == "curve"


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0"), (9999, "9,999"), (327680, "327.7k"), (4423680, "4.42M"), (999950, "1.00M")],
)
def test_short_counts(count, said):
    assert short(count) == said


def test_without_healing_there_is_no_section(drawn):
    html = (drawn.study / "report.html").read_text(encoding="utf-8")
    assert 'id="healing"' not in html
    assert "Healing" not in html
    assert not list((drawn.study / "figures").glob("healing*"))


@pytest.mark.parametrize("recipes", [("lora", "linear"), ("linear",)])
def test_the_section_has_the_table_and_a_figure_if_something_was_trained(maker, recipes, capsys):
    maker.curve(counts=(0, 2))
    for heal in recipes:
        maker.curve(counts=(2,), heal=heal)
    report = draw(maker.study)
    html = (maker.study / "report.html").read_text(encoding="utf-8")
    assert html.count('<section id="healing">') == html.count('href="#healing"') == 1
    section = html.split('<section id="healing">')[1].split("</section>")[0]
    table = make_healing_table(report.curves, report.tasks)
    for row in table.rows:
        assert "<tr>" + "".join(f"<td>{text}</td>" for text in row) + "</tr>" in section
    drawn = [path.name for path in report.written if path.stem == "healing"]
    files = [f"healing.{suffix}" for suffix in ("svg", "png", "pdf", "csv")]
    assert drawn == (files if "lora" in recipes else [])
    show(report)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "held-out loss" in line and "facts %" in line]
    written = [str(path).removesuffix(".png") for path in report.written]
    assert all(len(line) <= 100 for line in lines if not line.startswith(tuple(written)))


def test_the_table_is_readable_at_100_columns(maker, capsys):
    counts = range(0, 10, 3)
    for heal in ("none", "lora", "qlora", "linear"):
        for strategy in ("block", "deepest"):
            maker.curve(strategy, counts, heal=heal, num_layers=30, subjects=(), steps=5000)
    report = draw(maker.study)
    show(report)
    lines = capsys.readouterr().out.splitlines()
    written = [str(path).removesuffix(".png") for path in report.written]
    assert all(len(line) <= 100 for line in lines if not line.startswith(tuple(written)))
    assert "…" not in "\n".join(lines)
    (row,) = [line for line in lines if line.split()[:4] == ["deepest", "·", "qlora", "9"]]
    assert "10.24M" in row
    assert row.count("→") == 2


def test_a_healed_point_whose_record_says_nothing_of_it_is_a_point_like_others(maker):
    maker.point([3], heal="lora", write=False)
    with maker.editing() as content:
        del content["healing"]
    curves = curves_of(maker)
    assert make_healing_table(curves, make_tasks(curves)) is None
    assert healing_figure(curves) is None
