import json
import subprocess
import sys

import pytest
from studies import Maker

from layerprune.errors import UserError
from layerprune.report import draw
from layerprune.report.__main__ import main
from layerprune.report.terminal import show


def damage(study, name, content):
    path = study / "points" / name / "record.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)


def test_a_damaged_and_a_foreign_record_are_skipped_and_named(maker, capsys):
    maker.curve()
    good = maker.study / "points" / maker.made[0].key / "record.json"
    sealed = good.read_text()
    bare = json.dumps({**json.loads(sealed), "sha256": None})  # as if it had been written so
    damage(maker.study, "x1-cut", sealed[:200])
    damage(maker.study, "x2-foreign", '{"hello": 1}')
    damage(maker.study, "x3-newer", bare.replace('"schema": 1', '"schema": 99'))
    damage(maker.study, "x4-odd", bare.replace('"nats": 3.0', '"nats": "three"'))
    damage(maker.study, "x5-nan", bare.replace('"nats": 3.0', '"nats": NaN'))
    damage(maker.study, "x6-twice", sealed)
    damage(maker.study, "x7-flipped", sealed.replace('"nats": 3.0', '"nats": 2.0'))
    assert main([str(maker.study)]) == 0
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith("Skipped points/")]
    assert [line.split("/")[1] for line in lines] == [
        "x1-cut",
        "x2-foreign",
        "x3-newer",
        "x4-odd",
        "x5-nan",
        "x6-twice",
        "x7-flipped",
    ]
    assert "not a record of layerprune" in lines[1]
    assert "schema" in lines[2]
    assert "loss.nats" in lines[3]
    assert "finite number" in lines[4]
    assert "changed after it was written" in lines[6]
    assert len((maker.study / "curves.csv").read_text().splitlines()) == 1 + 3 * 8


def test_a_lost_or_damaged_matrix_costs_its_heat_map_only(maker):
    maker.curve()
    assert not [path for path in draw(maker.study).written if "distances" in path.name]
    profile = maker.profile()
    path = maker.study / "profiles" / f"{profile.key}.json"
    whole = path.read_text()
    for content in (whole[:50], whole.replace("0.0", "NaN")):
        path.write_text(content)
        report = draw(maker.study)
        assert [line.split(":")[0] for line in report.skipped] == [f"profiles/{profile.key}.json"]


@pytest.mark.parametrize("kind", ["missing", "empty", "damaged", "file"])
def test_a_study_that_cannot_be_drawn_is_one_line_and_status_2(tmp_path, capsys, kind):
    study = tmp_path / "study"
    if kind == "file":
        study.write_text("")
    elif kind != "missing":
        study.mkdir()
    if kind == "damaged":
        damage(study, "p", "{")
    with pytest.raises(UserError, match="study"):
        draw(study)
    assert main([str(study)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert str(study) in captured.err
    assert kind == "missing" or {path.name for path in tmp_path.rglob("*.html")} == set()


def test_one_bad_study_does_not_stop_the_next(maker, tmp_path, capsys):
    maker.curve()
    assert main([str(tmp_path / "none"), str(maker.study)]) == 2
    assert "report.html" in capsys.readouterr().out
    assert (maker.study / "report.html").is_file()


def test_no_argument_is_status_2_and_help_is_0(capsys):
    for arguments, status in (([], 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == status
    assert "outputs/STUDY" in capsys.readouterr().out


def test_the_table_is_readable_at_100_columns(maker, capsys):
    counts = range(16)
    maker.curve("block", counts, num_layers=30, model="[bold]SmolLM2[/bold]")
    maker.curve("deepest", counts, num_layers=30, model="[bold]SmolLM2[/bold]")
    maker.point([0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20], strategy="random", num_layers=30)
    report = draw(maker.study)
    show(report)
    lines = capsys.readouterr().out.splitlines()
    paths = {str(path) for path in report.written}
    assert all(
        len(line) <= 100
        for line in lines
        if line.removesuffix(", .png, .pdf and .csv") not in paths
    )
    text = "\n".join(lines)
    assert "[bold]SmolLM2[/bold]" in text
    (row,) = [line for line in lines if line.split()[:2] == ["30.0%", "9"]]
    # Both strategies in one row.
    assert "19-27" in row
    assert "20-28" in row
    assert row.count("±") == 2
    assert "…" not in text
    assert "40 questions" in text
    assert "chance 25.0%" in text
    for path in report.written:
        assert str(path) in text or str(path.with_suffix(".svg")) in text


def test_importing_the_report_is_light():
    heavy = ("altair", "vl_convert", "torch", "transformers", "hydra", "wandb", "pandas", "scipy",
             "pyarrow")  # fmt: skip
    code = (
        f"import sys, layerprune.report; print([name for name in {heavy} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_several_studies_make_one_report_elsewhere(maker, tmp_path, capsys):
    maker.curve("block")
    other = Maker(tmp_path / "other")
    other.curve("block")  # the same points again
    other.curve("deepest")
    maker.profile()
    damage(other.study, "x-foreign", "[]")
    together = tmp_path / "together"
    assert main([str(maker.study), str(other.study), "--to", str(together)]) == 0
    said = capsys.readouterr().out
    assert f"Skipped {other.study}: points/x-foreign/record.json" in said
    assert {path.name for path in together.iterdir()} == {
        "report.html", "figures", "curves.csv", "curves.parquet",
        "critical.csv", "critical.md", "critical.tex",
    }  # fmt: skip
    lines = (together / "curves.csv").read_text().splitlines()
    assert len(lines) == 1 + 6 * 8
    assert len(list(together.glob("figures/distances*.png"))) == 1
    for study in (maker.study, other.study):
        assert {path.name for path in study.iterdir()} <= {"points", "profiles"}


def test_a_study_is_not_written_over_by_the_report_of_several(maker, capsys):
    maker.curve()
    assert main([str(maker.study), "--to", str(maker.study)]) == 2
    assert "name another folder" in capsys.readouterr().err
    assert not (maker.study / "report.html").exists()


def test_one_way_at_a_time(maker, capsys):
    for ways in (["--text", "--compare"], ["--text", "--to", "x"], ["--compare"]):
        with pytest.raises(SystemExit) as stopped:
            main([str(maker.study), *ways])
        assert stopped.value.code == 2


def test_a_script_without_a_guard_and_a_console_draw_too(maker):
    maker.curve()
    script = (
        "from pathlib import Path\nfrom layerprune.report import draw\n"
        f"draw(Path({str(maker.study)!r}))\nprint('drawn once')\n"
    )
    path = maker.study / "script.py"
    path.write_text(script)
    # As `python -` and as a file: neither has a main module that may be run again.
    for command, given in (["-"], script), ([str(path)], ""):
        (maker.study / "report.html").unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, *command], input=given, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("drawn once") == 1
        assert (maker.study / "report.html").is_file()
