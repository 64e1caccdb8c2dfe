"""Workspaces, without a server: what would be sent is read back."""

import json
import sys

import pytest
from studies import Maker

from layerprune.analysis.curves import make_curves, make_tasks
from layerprune.report import draw
from layerprune.track.dashboard import main, sections
from layerprune.track.media import media_key
from layerprune.track.runs import history_row

ARGUMENTS = ("--project", "layers", "--entity", "somebody")


@pytest.fixture
def maker(tmp_path):
    maker = Maker(tmp_path / "study")
    maker.profile()
    return maker


def test_a_workspace_by_what_a_study_holds(maker, tmp_path, capsys):
    maker.curve(tasks=("facts", "boolq"))
    maker.curve(counts=(2,), heal="lora")
    file = tmp_path / "workspace.json"
    assert main([str(maker.study), *ARGUMENTS, "--to", str(file)]) == 0
    assert capsys.readouterr().err == ""
    study, workspace = json.loads(file.read_text())["workspaces"]
    assert (workspace["name"], workspace["entity"]) == ("study: llama", "somebody")
    section = workspace["spec"]["section"]
    parts = section["panelBankConfig"]["sections"]
    assert [part["name"] for part in parts] == [
        "Curves: llama", "Before and after healing", "Distances between layers", "Speed and cost",
        "Subjects",
    ]  # fmt: skip
    drawn = [panel["config"] for panel in parts[0]["panels"]]
    assert [panel["metrics"] for panel in drawn] == [
        ["facts/acc"], ["boolq/acc"], ["heldout/loss_normalised"],
    ]  # fmt: skip
    assert {panel["xAxis"] for panel in drawn} == {"fraction"}
    (media,) = parts[2]["panels"]
    assert media["config"]["mediaKeys"] == ["distances"]
    (runset,) = section["runSets"]
    filters = json.dumps(runset["filters"])
    assert all(word in filters for word in ("jobType", "curve", "study", "llama"))
    groups = json.dumps(runset["grouping"])
    assert groups.index("model_name") < groups.index("pair") < groups.index("recipe")

    assert study["name"] == "study: figures and summary"
    summary, figures = study["spec"]["section"]["panelBankConfig"]["sections"]
    assert "summary" in json.dumps(summary["panels"])
    keys = [key for panel in figures["panels"] for key in panel["config"]["mediaKeys"]]
    report = draw(maker.study)
    assert set(keys) == {media_key(path.stem) for path in report.written if path.suffix == ".png"}
    assert "study" in json.dumps(study["spec"]["section"]["runSets"][0]["filters"])


def test_accuracies_go_by_the_names_of_their_rows(maker):
    maker.curve(tasks=("written",), subjects=(), chance=None, measure="exact_match.strict-match")
    curves = make_curves(maker.made)
    drawn = sections("tiny", curves, make_tasks(curves))["Curves: tiny"]
    assert next(iter(drawn)) == "written/exact_match.strict-match"
    assert drawn.keys() <= history_row(maker.made[0]).keys()


def test_it_comes_back_as_it_was(maker):
    ws = pytest.importorskip("wandb_workspaces.workspaces")
    from layerprune.track.dashboard import make_workspaces

    maker.curve()
    _, workspace = make_workspaces(maker.study, "somebody", "layers")
    again = ws.Workspace._from_model(workspace._to_model())
    assert [section.name for section in again.sections] == [
        section.name for section in workspace.sections
    ]
    assert [panel._to_model() for panel in again.sections[0].panels] == [
        panel._to_model() for panel in workspace.sections[0].panels
    ]


def test_without_the_library_one_line_says_how_to_get_it(maker, tmp_path, capsys, monkeypatch):
    maker.curve()
    for name in ("wandb_workspaces", "wandb_workspaces.workspaces", "wandb_workspaces.reports",
                 "wandb_workspaces.reports.v2"):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, None)
    assert main([str(maker.study), *ARGUMENTS, "--to", str(tmp_path / "file.json")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "pip install 'layerprune[dashboards]'" in said


def test_what_is_missing_is_one_line(maker, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    assert main([str(tmp_path / "none"), *ARGUMENTS]) == 2
    maker.curve()
    assert main([str(maker.study), "--project", "layers"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 2
    assert "--entity" in said
