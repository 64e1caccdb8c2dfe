"""YAML from elsewhere composes, and sets values; it runs nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from layerprune.config.compose import conf_dir
from layerprune.errors import UserError

ROOT = Path(__file__).parents[2]

CODE = """
open({ran!r}, "w").write("ran")
class Handler:
    pass
def call(*_, **__):
    pass
"""

FOREIGN = {
    "a callback": "callbacks: {c: {_target_: foreign_code.call}}",
    "a nested callback": "callbacks: {c: {x: {y: [{_target_: foreign_code.call}]}}}",
    "a handler's class": "job_logging: {handlers: {file: {class: foreign_code.Handler}}}",
    "a factory": "job_logging: {formatters: {x: {(): foreign_code.call}}}",
    "Hydra's own log": "hydra_logging: {handlers: {console: {class: foreign_code.Handler}}}",
    "a stream": "job_logging: {handlers: {console: {stream: 'ext://foreign_code.call'}}}",
    "a pattern": "job_logging: {formatters: {simple: {format: 'ext://foreign_code.call'}}}",
    "a filter": "job_logging: {filters: {f: {(): foreign_code.call}}}",
    "a property": "job_logging: {handlers: {file: {'.': {x: 'ext://foreign_code.call'}}}}",
    "a launcher": "launcher: {_target_: foreign_code.call}",
    "something in a launcher": (
        "launcher: {additional_parameters: {y: [{_target_: foreign_code.call}]}}"
    ),
    "what a launcher refers to": "launcher: {additional_parameters: '${eval.num_fewshot_of}'}",
    "what becomes a launcher": (
        """launcher: {additional_parameters: '${oc.decode:"{_target_: foreign_code.call}"}'}"""
    ),
    "what becomes handlers": (
        """job_logging: {handlers: '${oc.decode:"{a: {class: foreign_code.Handler}}"}'}"""
    ),
    "a handler called level": (
        """job_logging: {handlers: {level: '${oc.decode:"{class: foreign_code.Handler}"}'}}"""
    ),
    "a sweeper": "sweeper: {_target_: foreign_code.call}",
    "another log file": "job_logging: {handlers: {file: {filename: ../.profile}}}",
    "a library": "job: {env_set: {LD_PRELOAD: /tmp/foreign.so}}",
    "another host": "job: {env_set: {WANDB_BASE_URL: 'https://elsewhere.example'}}",
}


@pytest.fixture
def foreign(tmp_path):
    """Writes an `experiment=foreign` with such lines for Hydra; says whether its code ran."""

    def write(hydra):
        folder = tmp_path / "conf" / "experiment"
        folder.mkdir(parents=True, exist_ok=True)
        more = "eval: {num_fewshot_of: {_target_: 3}}\n" if "num_fewshot_of" in hydra else ""
        if "additional_parameters" in hydra:  # other launchers take no keys but their own
            more += "defaults: [{override /hydra/launcher: submitit_slurm}]\n"
        text = f"# @package _global_\n{more}hydra:\n  {hydra}\n"
        (folder / "foreign.yaml").write_text(text)
        (tmp_path / "foreign_code.py").write_text(CODE.format(ran=str(tmp_path / "ran")))
        return folder.parent

    return write


@pytest.mark.parametrize("how", FOREIGN)
def test_yaml_from_elsewhere_cannot_run_code(foreign, how, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    searched = f"hydra.searchpath=[file://{foreign(FOREIGN[how])}]"
    with (
        initialize_config_dir(str(conf_dir()), version_base="1.3"),
        pytest.raises(
            UserError, match=r"^(hydra|eval)\.[\w.()-]+.*: a configuration must not set it"
        ),
    ):
        hydra_compose("config", overrides=[searched, "experiment=foreign"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "how", ["a callback", "a handler's class", "Hydra's own log", "something in a launcher"]
)
@pytest.mark.parametrize("many", [[], ["-m"]])
def test_the_command_line_refuses_it_in_one_line(foreign, how, many, tmp_path):
    folder = foreign(FOREIGN[how])
    done = subprocess.run(
        [sys.executable, ROOT / "main.py", *many, "--config-dir", folder, "experiment=foreign"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("layerprune: hydra."), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conf", "foreign_code.py"]


def test_a_preset_that_a_sweep_chooses_is_looked_at(foreign, tmp_path):
    folder = foreign(FOREIGN["a handler's class"])
    done = subprocess.run(
        [sys.executable, ROOT / "main.py", "-m", "--config-dir", folder,
         "experiment=demo,foreign", "dry_run=true"],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "hydra.job_logging.handlers.file.class=foreign_code.Handler" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "hydra",
    [
        "job_logging: {root: {level: DEBUG}}",
        "job_logging: {formatters: {simple: {format: '%(message)s'}}}",
        "verbose: true",
        "job: {env_set: {OMP_NUM_THREADS: 1}}",
    ],
)
def test_levels_patterns_and_threads_are_free(foreign, hydra):
    searched = f"hydra.searchpath=[file://{foreign(hydra)}]"
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        hydra_compose("config", overrides=[searched, "experiment=foreign"])


@pytest.mark.parametrize("package", ["job_logging", "hydra_logging"])
@pytest.mark.parametrize("choice", ["default", "disabled", "none"])
def test_the_logs_that_hydra_brings_may_be_chosen(package, choice):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        hydra_compose("config", overrides=[f"hydra/{package}={choice}"])
