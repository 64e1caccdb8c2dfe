"""Names are not paths: nothing is written outside of a study's folder and the cache."""

import sys

import pytest
from studies import Maker

from layerprune.config.compose import compose
from layerprune.errors import UserError
from layerprune.report import draw
from layerprune.run import pipeline

OUT = "../../../../out"


@pytest.mark.parametrize("name", ["..", "../x", "/tmp/x", "a/b", "a\\b", ".hidden", "", "cache"])
def test_a_study_is_a_name(name):
    with pytest.raises(UserError, match="study="):
        compose(f"study='{name}'")


def test_names_of_models_and_tasks_stay_in_the_study(
    tmp_path, tiny_folder, tiny_tasks, monkeypatch
):
    # Python itself would keep what it has compiled of the tasks' code beside it.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for file in tiny_tasks.glob("letters.*"):
        (tasks / file.name).write_bytes(file.read_bytes())
    yaml = tasks / "letters.yaml"
    yaml.write_text(yaml.read_text().replace("task: letters", f"task: {OUT}"))
    home = tmp_path / "a" / "b" / "c" / "outputs"
    before = set(tmp_path.rglob("*"))
    config = compose(
        "model=custom", f"model.path={tiny_folder}", f"model.name={OUT}",
        f"model.family={OUT}", f"eval.include_path={tasks}", "eval.trust_task_code=true",
        f"eval.tasks=['{OUT}']", "data.sequence_length=32", "data.calibration_sequences=8",
        "prune.fraction=[0,0.25]", f"runtime.outputs={home}", "export=hf", "heal=linear",
        "heal.sequences=16", "heal.sequence_length=32",
    )  # fmt: skip
    pipeline.run(config)
    draw(home / "default")
    made = set(tmp_path.rglob("*")) - before - set(home.parents)
    assert made
    assert all(path.is_relative_to(home) for path in made), made
    assert (home / "default" / "report.html").is_file()


def test_names_in_records_stay_in_the_study(tmp_path):
    folder = tmp_path / "a" / "b" / "c" / "study"
    Maker(folder).curve(model=OUT, tasks=(OUT,))
    before = set(tmp_path.rglob("*"))
    draw(folder)
    made = set(tmp_path.rglob("*")) - before
    assert made
    assert all(path.is_relative_to(folder) for path in made), made
