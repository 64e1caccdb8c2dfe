"""The command line as a user meets it: exit status, one line, nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from wandb_file import read_runs

from layerprune import app

ROOT = Path(__file__).parent.parent


def command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "COLUMNS": "120"},
    )


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """The command line inside this process, where torch is imported already."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["main.py", *map(str, arguments)])
        capsys.readouterr()
        try:
            app.main()
            status = 0
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().err

    return run


def test_help_lists_the_groups_without_heavy_imports(tmp_path):
    program = (
        "import sys; sys.argv = ['main.py', '--help']\n"
        "from layerprune.app import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'transformers', 'wandb', 'lm_eval', 'altair', 'peft'}"
        " & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.rstrip().endswith("[]")
    for group in ("model: ", "metric: ", "prune: ", "heal: ", "eval: ", "data: ", "tracker: ",
                  "export: ", "experiment: ", "runtime: "):  # fmt: skip
        assert f"\n{group}" in done.stdout
    assert "base_root" not in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model=custom", "model.path=/no/such/model"], ["model.path=/no/such/model"]),
        (["model=custom", "model.path=empty"], ["model.path=empty", "config.json"]),
        (["model=custom", "model.path=a_file"], ["model.path=a_file", "folder"]),
        (["model=custom", "model.path=nonsense"], ["model.path=nonsense", "config.json"]),
        (["model=custom", "model.path=weightless"], ["model.path=weightless", "safetensors"]),
        (["model=custom", "model.path=org/not-on-this-machine"], ["org/not-on-this-machine"]),
        (["prune.fraction=1.2"], ["prune.fraction=1.2"]),
        (["metric=angluar"], ["metric=angluar", "angular"]),
        (["data=files", "data.files=[empty.txt]"], ["empty.txt", "no text"]),
        (["eval.tasks=[facts,fcts]"], ["eval.tasks", "fcts"]),
        (["eval.include_path=nowhere"], ["eval.include_path=nowhere"]),
        (["runtime.outputs=a_file"], ["a_file", "runtime.outputs"]),
        (["runtime.outputs=/proc/nothing"], ["/proc/nothing", "runtime.outputs"]),
    ],
    ids=lambda value: value[-1],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, here, arguments, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a_file").touch()
    (tmp_path / "empty.txt").touch()
    for name, content in (("nonsense", "{}"), ("weightless",
                          '{"model_type": "llama", "num_hidden_layers": 2}')):  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    before = set(tmp_path.rglob("*"))
    status, stderr = here(*arguments)
    assert status == 2, stderr
    (line,) = stderr.strip().splitlines()
    assert line.startswith("layerprune: ")
    assert all(word in line for word in words), line
    after = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    assert after - before <= {tmp_path / "outputs"}


def test_a_refused_job_deletes_nothing_of_the_users(tmp_path, here):
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "jobs").mkdir()
    for place in (".", "jobs", "jobs/mine"):
        status, _ = here("model=custom", "model.path=/no", f"hydra.run.dir={place}")
        assert status == 2
        assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_unverified_model_is_refused_before_it_is_loaded(tmp_path, here):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").touch()
    (tmp_path / "model" / "config.json").write_text(
        '{"model_type": "gemma3n", "text_config": {"model_type": "gemma3n_text",'
        ' "num_hidden_layers": 4}}'
    )
    status, stderr = here("model=custom", "model.path=model")
    assert status == 2
    (line,) = stderr.strip().splitlines()
    assert "gemma3n: dropping layers has not been verified" in line


def test_a_task_asked_for_twice_is_refused(tmp_path, here, tiny_folder):
    status, stderr = here(
        "model=custom", f"model.path={tiny_folder}", "eval.tasks=[facts,facts_capitals]"
    )
    assert status == 2
    assert "eval.tasks=['facts', 'facts_capitals'] cannot be loaded" in stderr
    assert not list((tmp_path / "outputs").glob("default/*"))


@pytest.mark.slow
def test_a_sweep_and_the_list_form_make_the_same_records(tmp_path, tiny_folder, tiny_tasks):
    common = (
        "model=custom", f"model.path={tiny_folder}", "eval.tasks=[letters]",
        f"eval.include_path={tiny_tasks}",
        "eval.trust_task_code=true", "data.sequence_length=32", "tracker=disabled",
        "data.calibration_sequences=8", "data.heldout_sequences=4",
    )  # fmt: skip
    done = command("study=list", "prune.fraction=[0,0.5]", *common, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    done = command("-m", "study=sweep", "prune.fraction=0,0.5", *common, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one, other = (tmp_path / "outputs" / study for study in ("list", "sweep"))
    assert (one / "curves.csv").read_bytes() == (other / "curves.csv").read_bytes()
    assert {path.name for path in (one / "points").iterdir()} == {
        path.name for path in (other / "points").iterdir()
    }


@pytest.mark.slow
def test_a_broken_tracker_loses_nothing(tmp_path, here, tiny_folder, tiny_tasks):
    study = tmp_path / "outputs" / "tracked"
    study.mkdir(parents=True)
    (study / "wandb").write_text("a file where W&B wants a folder")
    arguments = (
        "study=tracked", "prune.fraction=0.5", "model=custom", f"model.path={tiny_folder}",
        "eval.tasks=[letters]", f"eval.include_path={tiny_tasks}",
        "eval.trust_task_code=true", "data.sequence_length=32",
        "data.calibration_sequences=8", "data.heldout_sequences=4", "prune=deepest",
    )  # fmt: skip
    status, stderr = here(*arguments)
    assert status == 0
    (line,) = (line for line in stderr.splitlines() if "Weights & Biases" in line)
    assert "the records are whole" in line
    assert len(list(study.glob("points/*/record.json"))) == 1
    (study / "wandb").unlink()
    status, stderr = here(*arguments)
    assert status == 0
    assert "Weights & Biases" not in stderr
    assert sorted(run.job_type for run in read_runs(study / "wandb")) == ["curve", "point"]
