"""The command line as a user meets it: exit status, one line, nothing left behind."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from wandb_file import read_runs

from layerprune import cli
from layerprune.config.compose import conf_dir
from layerprune.record.store import Store

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
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().err

    return run


def test_help_lists_the_groups_without_heavy_imports(tmp_path):
    program = (
        "import sys; sys.argv = ['main.py', '--help']\n"
        "from layerprune.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'transformers', 'wandb', 'lm_eval', 'altair', 'peft'}"
        " & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.rstrip().endswith("[]")
    lines = done.stdout.splitlines()[:-1]
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    words = set(re.split(r"[\s,:]+", done.stdout))
    for path in conf_dir().glob("*/*.yaml"):
        if path.parent.name != "runtime":
            assert {path.parent.name, path.stem} <= words
    assert {"fit", "runtime"} <= words
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", ["layerprune", "main.py"])
def test_help_names_the_program_as_it_was_called(program, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"/some/bin/{program}", "-h"])
    cli.main()
    examples = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    name = "layerprune" if program == "layerprune" else "python main.py"
    assert sum(line.startswith(f"  {name} ") for line in examples) == 6


@pytest.mark.parametrize(
    ("arguments", "keys", "choices"),
    [
        (["--help", "heal"], ["heal.rank", "heal.seam_layers", "heal.steps"], ["heal=lora"]),
        (["heal=lora", "--help"], ["heal.rank", "heal.steps"], []),
        (["model=custom", "-h"], ["model.path", "model.healing.rank"], []),
        (["data=files", "-h"], ["data.files", "data.hub"], []),
        (["--help", "metric"], ["metric.tokens"], ["metric=taylor"]),
        (["--help", "eval"], ["eval.tasks", "eval.speed.rounds"], ["eval=mmlu"]),
        (["--help", "fit"], ["fit.keep"], []),
        (["--help", "runtime"], ["runtime.memory"], []),
        (["--help", "experiment"], [], ["experiment=fig1"]),
        (["-h", "launcher"], [], ["launcher=joblib"]),
    ],
    ids=" ".join,
)
def test_help_on_a_group_lists_its_keys(arguments, keys, choices, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    cli.main()
    lines = capsys.readouterr().out.splitlines()
    heads = {line.partition(":")[0] for line in lines if not line.startswith(" ")}
    assert {*keys, *choices} <= heads
    assert ("heal.seam_layers" in heads) == (arguments == ["--help", "heal"])
    assert max(map(len, lines)) <= 100


def test_help_says_type_default_and_meaning(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["main.py", "heal=lora", "heal.steps=7", "--help"])
    cli.main()
    shown = capsys.readouterr().out
    assert "heal.steps: whole number, 7 by default\n    Optimiser steps.\n" in shown
    assert "heal.rank: whole number, 16 by default\n    Rank of the LoRA adapters.\n" in shown


def test_help_on_what_is_no_group_names_the_groups(here):
    status, stderr = here("--help", "healing")
    assert status == 2
    assert "--help healing: choose one of model, metric" in stderr


def test_what_cublas_reads_once_is_set_before_any_job(monkeypatch, tmp_path):
    """A later job of the process may be deterministic when cuBLAS has been used already."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["main.py", "--cfg", "job"])
    cli.main()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_the_version_is_this_programs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["main.py", "--version"])
    cli.main()
    assert capsys.readouterr().out == f"layerprune {version('layerprune')}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--hydra-help"], ["--cfg", "job"]])
def test_a_reader_that_has_enough_ends_the_program_quietly(arguments, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *arguments],
        cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=240,
    )  # fmt: skip
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1


def test_hydras_own_help_is_there(tmp_path):
    done = command("--hydra-help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--multirun" in done.stdout


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
def test_a_model_is_named_by_its_path_however_it_is_given(tmp_path, here, tiny_folder, tiny_tasks):
    common = (
        "prune.layers=2", "heal=lora", "heal.steps=1", "heal.warmup_steps=0", "heal.batch_size=2",
        "heal.sequence_length=32", "eval.tasks=letters", f"eval.include_path={tiny_tasks}",
        "eval.trust_task_code=true", "data.sequence_length=32", "data.calibration_sequences=8",
        "data.heldout_sequences=4", "tracker=disabled",
    )  # fmt: skip
    for model in (
        [f"model.path={tiny_folder}"],
        [f"model={tiny_folder}"],
        ["model=custom", f"model.path={tiny_folder}"],
    ):
        status, stderr = here(*common, *model)
        assert status == 0, stderr
        # Three spellings of one point.
        (record,) = tmp_path.glob("outputs/default/points/*/record.json")
    record = json.loads(record.read_text())
    assert record["model"]["name"] == tiny_folder.name
    assert record["model"]["family"] == "llama"
    assert record["config"]["heal"]["rank"] == 64, "the paper's, not the bundled model's"
    assert "smollm2" not in json.dumps(record)


@pytest.mark.slow
def test_a_sweep_before_and_after_healing(tmp_path, here, tiny_folder, tiny_tasks):
    common = (
        f"model={tiny_folder}", "prune.layers_dropped=2", "heal.steps=2", "heal.warmup_steps=0",
        "heal.batch_size=2", "heal.sequence_length=32", "eval.tasks=letters",
        f"eval.include_path={tiny_tasks}", "eval.trust_task_code=true", "data.sequence_length=32",
        "data.calibration_sequences=8", "data.heldout_sequences=4", "tracker=disabled",
    )  # fmt: skip
    status, stderr = here("-m", "heal=none,lora", *common)
    assert status == 0, stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/points/*/*.json")]
    assert sorted(record["config"]["heal"]["recipe"] for record in records) == ["lora", "none"]
    assert {len(record["plan"]["dropped"]) for record in records} == {2}
    status, stderr = here("heal=none", *common)
    assert status == 2
    assert "heal.steps has no effect with heal=none" in stderr


def test_a_shape_that_is_not_the_models_is_refused(tmp_path, here, tiny_folder):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        f"path: {tiny_folder}\nshape: {{num_hidden_layers: 8, hidden_size: 33,"
        " intermediate_size: 64, num_attention_heads: 4, num_key_value_heads: 2, vocab_size: 259}\n"
    )
    status, stderr = here(f"hydra.searchpath=[file://{tmp_path}]", "model=mine")
    assert status == 2
    (line,) = stderr.strip().splitlines()
    assert "model.shape.hidden_size=33" in line
    assert "32" in line


def test_points_that_a_launcher_never_made_are_one_line_with_its_reason(tmp_path):
    session, store = cli.Session(), Store(tmp_path)
    session.jobs = [
        SimpleNamespace(targets=dict.fromkeys(keys), store=store) for keys in ("abc", "cd")
    ]
    fix = "no record: rerun the same command to resume."
    (line,) = session.error_lines()
    assert line == f"The process that was to make them ended early. 4 points have {fix}"
    store.write_failure("b", {}, "it fell over", ValueError())
    session.on_launcher_failure("The launcher failed: RuntimeError: no queue.")
    assert session.error_lines() == [
        "b: it fell over",
        f"The launcher failed: RuntimeError: no queue. 3 points have {fix}",
    ]


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
    assert "the records are complete" in line
    assert len(list(study.glob("points/*/record.json"))) == 1
    (study / "wandb").unlink()
    status, stderr = here(*arguments)
    assert status == 0
    assert "Weights & Biases" not in stderr
    kinds = sorted(run.job_type for run in read_runs(study / "wandb"))
    assert kinds == ["curve", "point", "study"]
