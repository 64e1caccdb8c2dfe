"""Presets: each can be planned without the hub, presets of the paper's size included."""

import sys
from contextlib import suppress

import pytest
from scripts import script

from layerprune import cli
from layerprune.config.compose import conf_dir

NAMES = sorted(path.stem for path in conf_dir().glob("experiment/*.yaml"))
PAPER = [name for name in NAMES if name.endswith("_paper")]

POINTS = {
    "elastic": 21, "fig1": 14, "fig2": 62, "fig3": 14, "fig4": 1, "fig5": 28, "fig6": 6, "fig7": 32,
    "fig7_order": 32, "fig8": 6, "fig9": 6, "v2": 7, "speed": 6, "training_cost": 6, "recipes": 8,
    "metrics": 54, "strategies": 30, "calibration": 48, "eval_text": 12, "quantisation": 12,
    "predictor": 76, "demo": 60, "demo_healed": 1, "fit": 36,
    "fig1_paper": 26, "fig2_paper": 182, "fig3_paper": 182, "fig4_paper": 7, "fig5_paper": 52,
    "fig6_paper": 182, "fig7_paper": 312, "fig8_paper": 39, "fig9_paper": 144, "v2_paper": 130,
    "speed_paper": 24, "training_cost_paper": 12, "recipes_paper": 48, "metrics_paper": 234,
    "strategies_paper": 130, "calibration_paper": 130, "quantisation_paper": 78,
}  # fmt: skip


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_plan_of_a_preset_can_be_seen_here(name, outputs, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    command = ["main.py", f"experiment={name}", "dry_run=true", f"runtime.outputs={outputs}"]
    monkeypatch.setattr(sys, "argv", command)
    with suppress(SystemExit):  # a sweep ends so; what was refused would be missing below
        cli.main()
    said = capsys.readouterr().out
    assert f"{POINTS[name]} points, {POINTS[name]} to do" in said
    assert "A100 hours" in said
    assert ("smollm2" in said) is (name not in PAPER)
    assert {path.name for path in outputs.iterdir()} <= {"cache"}, "a dry run leaves no study"


def test_no_preset_is_forgotten():
    assert set(POINTS) == set(NAMES)


@pytest.fixture
def tables():
    """The script that writes pages from presets; experiments are no package."""
    return script("tables")


@pytest.mark.slow
def test_pages_that_are_written_from_presets_are_true(tables):
    assert tables.INDEX.read_text() == tables.index(), "make tables"
    assert tables.MODELS.read_text() == tables.models(), "make tables"


def test_every_preset_says_what_it_asks_and_how_it_is_run(tables):
    keys = ["question", "source", "expectation", "hardware", "command"]
    for name, said in tables.presets().items():
        assert list(said) == keys, name
        assert said["command"].startswith(f"python main.py experiment={name}"), name
