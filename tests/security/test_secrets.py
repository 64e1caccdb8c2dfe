"""Keys and tokens of the environment are in nothing that a run writes or says."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from layerprune.config.compose import compose
from layerprune.errors import UserError
from layerprune.runtime.redact import HIDDEN, Redacted

ROOT = Path(__file__).parents[2]

PLANTED = {
    "HF_TOKEN": "planted-7f3a9c51e0-hub",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdefplanted7",
    "OTHER_SECRET": "planted-7f3a9c51e0-other",
}

LOGGED = """
import logging, os, sys, warnings
said = " ".join(os.environ[name] for name in ("HF_TOKEN", "WANDB_API_KEY", "OTHER_SECRET"))
logging.getLogger("elsewhere").warning("using %s", said)
logging.getLogger("elsewhere").info("using %s", said)
warnings.warn("using " + said)
"""

FAILS = {
    "nothing fails": ("", 0),
    "a task cannot be loaded": ("raise RuntimeError(said)\n", 2),
    "a question cannot be asked": (
        "asked = []\n"
        "def ask(doc):\n"
        "    asked.append(doc)\n"
        "    if len(asked) > 4:  # lm-eval looks at some when it loads them\n"
        "        raise RuntimeError(f'https://user:{said}@host/?token={said}')\n"
        "    return doc['question']\n",
        1,
    ),
    "the program has an error": (
        "from layerprune.run import pipeline\n"
        "def fail(*_):\n    raise RuntimeError(said)\n"
        "pipeline._export = fail\n",
        1,
    ),
}


@pytest.fixture
def run(tmp_path, tiny_folder, tiny_tasks):
    """Runs a point of a tiny model with planted keys, and code that says them."""

    def run(more, *overrides):
        tasks = tmp_path / "tasks"
        tasks.mkdir()
        for file in tiny_tasks.glob("letters.*"):
            (tasks / file.name).write_bytes(file.read_bytes())
        code = tasks / "letters.py"
        code.write_text(code.read_text() + LOGGED + more)
        if "def ask" in more:
            text = (tasks / "letters.yaml").read_text()
            assert '"{{question}}"' in text
            (tasks / "letters.yaml").write_text(
                text.replace('"{{question}}"', "!function letters.ask")
            )
        return subprocess.run(
            [sys.executable, ROOT / "main.py", "model=custom", f"model.path={tiny_folder}",
             f"eval.include_path={tasks}", "eval.trust_task_code=true", "eval.tasks=[letters]",
             "data.sequence_length=32", "data.calibration_sequences=8", "prune.fraction=0.25",
             "tracker=offline", *overrides],
            cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **PLANTED},
            timeout=240,
        )  # fmt: skip

    return run


def leaks(done, folder):
    """Where a planted key stands, except for the code that reads it from the environment."""
    texts = {"the screen": (done.stdout + done.stderr).encode()}
    texts |= {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    return {
        (name, where)
        for name, value in PLANTED.items()
        for where, content in texts.items()
        if value.encode() in content
    }


@pytest.mark.parametrize("how", FAILS)
def test_planted_keys_are_nowhere(run, tmp_path, how):
    code, status = FAILS[how]
    done = run(code)
    assert done.returncode == status, done.stderr
    assert leaks(done, tmp_path) == set(), done.stdout + done.stderr
    (log,) = tmp_path.glob("outputs/default/jobs/*/layerprune.log")
    assert f"using {HIDDEN} {HIDDEN} {HIDDEN}" in log.read_text()
    assert HIDDEN in done.stdout + done.stderr


def test_a_key_in_the_configuration_is_refused(run, tmp_path):
    done = run("", "model.name=${oc.env:HF_TOKEN}")
    assert done.returncode == 2
    assert done.stderr.startswith("layerprune: model.name contains a password, a token or a key")
    assert len(done.stderr.splitlines()) == 1
    assert leaks(done, tmp_path) == set()


@pytest.mark.parametrize(
    "value", ["hf_abcdefghijklmnopqrst", "https://me:word@host/x", "http://host/?api_key=word"]
)
def test_forms_that_keys_have_are_refused_whatever_their_source(value):
    with pytest.raises(UserError, match=r"^model\.name contains a password"):
        compose(f"model.name='{value}'")


def test_tracebacks_in_logs_are_cleaned(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "planted-in-a-traceback")
    try:
        raise ValueError("planted-in-a-traceback")
    except ValueError:
        record = logging.LogRecord("x", 40, "f", 1, "failed", (), sys.exc_info())
    text = Redacted("%(message)s").format(record)
    assert "Traceback" in text
    assert f"ValueError: {HIDDEN}" in text
