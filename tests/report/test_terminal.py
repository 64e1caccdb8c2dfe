"""Curves as characters."""

from layerprune.report import read
from layerprune.report.__main__ import main
from layerprune.report.terminal import HEIGHT, MARKS, SEVERAL, make_plots


def test_curves_are_told_apart_by_their_marks(maker):
    maker.curve("block", range(7))
    maker.curve("deepest", range(7))
    report = read([maker.study])
    (plot,) = make_plots(report.curves, report.tasks, 80)
    assert max(map(len, plot.lines)) <= 80
    drawn = "\n".join(line[7:] for line in plot.lines[:HEIGHT])
    assert drawn.count("o") == 6
    assert drawn.count("x") == 6
    assert drawn.count(SEVERAL) == 1  # the dense model
    assert plot.legend[:2] == ("  o  block", "  x  deepest")
    assert "chance (25.0%)" in plot.legend[-1]
    assert plot.lines[-1].split() == ["0%", "19%", "38%", "56%", "75%"]
    # The worse curve lies below.
    at = {
        mark: [n for n, line in enumerate(plot.lines[:HEIGHT]) if mark in line[7:]] for mark in "ox"
    }
    assert max(at["o"]) < max(at["x"])


def test_many_curves_take_several_plots(maker):
    for seed in range(len(MARKS) + 2):
        maker.curve("random", (0, 3), seed=seed)
    report = read([maker.study])
    plots = make_plots(report.curves, report.tasks, 80)
    assert [sum(line[2] in MARKS for line in plot.legend) for plot in plots] == [len(MARKS), 2]


def test_accuracies_at_both_ends_are_drawn(maker):
    for share in (0.0, 1.0):
        maker.point(range(int(4 * share)), chance=None, write=False)
        with maker.editing() as content:
            content["scores"][0]["measures"]["acc"]["value"] = share
            for score in content["scores"]:
                score["correct"] = None

    from layerprune.analysis.curves import make_curves, make_tasks

    curves = make_curves(maker.made)
    plot = make_plots(curves, make_tasks(curves), 60)[0]
    assert plot.lines[0][:6].strip() == "100%"
    assert "o" in plot.lines[0]
    assert "o" in plot.lines[HEIGHT - 1]


def test_text_writes_nothing(maker, capsys):
    maker.curve("block", range(5))
    damaged = maker.study / "points" / "x" / "record.json"
    damaged.parent.mkdir()
    damaged.write_text('{"schema": 1}')
    before = sorted(maker.study.rglob("*"))
    assert main([str(maker.study), "--text"]) == 0
    said = capsys.readouterr().out
    assert sorted(maker.study.rglob("*")) == before
    assert "accuracy against the fraction of layers removed" in said
    assert "Critical fractions" in said
    assert "Skipped points/x/record.json" in said
    assert all(len(line) <= 100 for line in said.splitlines() if "Skipped" not in line)


def test_text_of_a_study_without_records_is_status_2(tmp_path, capsys):
    assert main([str(tmp_path), "--text"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
