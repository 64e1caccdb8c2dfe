"""Runs of the program in processes of their own, disturbed or not, and what they leave on disk.

Processes are forked from one that has PyTorch loaded, so that a run takes a second or two.
"""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
from safetensors import safe_open

from layerprune.files import UNFINISHED, read_sealed

HOME = Path(__file__).parent.parent

Disturb = Callable[[], None]
"""Runs in the process before the program does."""

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["faults.loaded"])


def _serve() -> None:
    """Start the process that runs are forked from; it imports by its environment alone."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (HOME, HOME.parent)))
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


SAME = "the same command completes; same records"
"""What becomes of most runs, for the table."""

PATIENCE_S = 240
"""A run that takes longer hangs."""


@dataclass(frozen=True)
class Ended:
    """How a run ended, and what it said."""

    status: int | None
    """What the process ended with: minus the signal's number if one ended it."""
    said: str

    @property
    def last(self) -> str:
        """The last line for a person."""
        lines = [line for line in self.said.splitlines() if line.startswith("layerprune: ")]
        return lines[-1].removeprefix("layerprune: ") if lines else ""


class Place:
    """A folder with outputs, in which runs of one study take place."""

    def __init__(self, folder: Path, model: Path, tasks: Path) -> None:
        self.folder = folder
        self.model = model
        self._tasks = tasks
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    @property
    def study(self) -> Path:
        return self.outputs / "faults"

    def arguments(self, *overrides: str) -> list[str]:
        return [
            "main.py", "model=custom", f"model.path={self.model}", "eval.tasks=[letters]",
            f"eval.include_path={self._tasks}",
            "eval.trust_task_code=true", "data.sequence_length=32",
            "data.calibration_sequences=8", "data.heldout_sequences=4", "tracker=disabled",
            "runtime.threads=1", "runtime.device=cpu", "study=faults",
            "prune.fraction=[0,0.25,0.5]", *overrides,
        ]  # fmt: skip

    def start(self, *overrides: str, disturb: Disturb | None = None, report: bool = False):
        """Begin a run; the report at its end takes longer than all else, and is made on demand."""
        _serve()
        said = self._said()
        process = _PROCESSES.Process(
            target=_program, args=(self.arguments(*overrides), self.folder, said, disturb, report)
        )
        process.start()
        return process, said

    def run(self, *overrides: str, disturb: Disturb | None = None, report: bool = False) -> Ended:
        """A run from its start to its end."""
        return ended(*self.start(*overrides, disturb=disturb, report=report))

    def spawn(self, *overrides: str) -> tuple[subprocess.Popen, Path]:
        """Begin a run in a process that nothing was loaded in: it may have processes of its own."""
        said = self._said()
        command = [sys.executable, str(HOME.parent / "main.py"), *self.arguments(*overrides)[1:]]
        with said.open("w") as out:
            process = subprocess.Popen(
                command, cwd=self.folder, stdout=out, stderr=out, start_new_session=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"},
            )  # fmt: skip
        return process, said

    @staticmethod
    def wait(process: subprocess.Popen, said: Path) -> Ended:
        """Wait for a run that was spawned."""
        try:
            status = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"it hangs:\n{said.read_text()[-3000:]}") from None
        return Ended(status, said.read_text(errors="replace"))

    def _said(self) -> Path:
        return self.folder / f"said-{len(list(self.folder.glob('said-*')))}.txt"

    def seconds(self) -> float:
        """What the last run that ended well took of the processor."""
        return float((self.folder / "seconds").read_text())

    def results(self) -> dict[str, object]:
        """What points came to, without what depends on the time and the place."""
        found = {}
        for path in self.study.glob("points/*/record.json"):
            record = read_sealed(path)
            healing = record["healing"] and [
                (step["loss"], step["heldout"]) for step in record["healing"]["steps"]
            ]
            parts = [record[name] for name in ("identity", "plan", "scores", "loss")]
            found[path.parent.name] = json.dumps([*parts, healing], sort_keys=True)
        return found

    def half_files(self) -> list[Path]:
        """What looks whole and is not."""
        return [path for path in self.outputs.rglob("*") if path.is_file() and not _whole(path)]

    def remains(self) -> list[Path]:
        """What was begun and never finished."""
        return [path for path in self.outputs.rglob("*") if UNFINISHED in path.name]


def ended(process, said: Path) -> Ended:
    """Wait for a run."""
    process.join(PATIENCE_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"it hangs:\n{said.read_text()[-3000:]}")
    return Ended(process.exitcode, said.read_text(errors="replace"))


def _program(
    arguments: list[str], cwd: Path, said: Path, disturb: Disturb | None, report: bool
) -> None:
    os.chdir(cwd)
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = arguments
    import torch

    from layerprune import app

    torch.set_num_threads(1)
    if not report:
        app._show = lambda: None
    if disturb is not None:
        disturb()
    begun = time.process_time()
    app.main()
    (cwd / "seconds").write_text(str(time.process_time() - begun))


def _whole(path: Path) -> bool:
    """Whether a file is what its name says; those being written have names of their own."""
    if UNFINISHED in str(path) or "checkpoint-" in str(path):
        return True
    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                list(map(file.get_tensor, file.keys()))
        elif path.suffix == ".html":
            return path.read_text().rstrip().endswith("</html>")
        elif path.suffix == ".svg":
            return path.read_text().rstrip().endswith("</svg>")
    except Exception:
        return False
    return True


def shown(text: str, folder: Path) -> str:
    """A message without what differs from run to run."""
    text = text.replace(f"{folder}/", "")
    text = re.sub(r"-[0-9a-f]{12}\b", "-KEY", text)
    text = re.sub(r"\b[0-9a-f]{12,16}\b", "KEY", text)
    return " ".join(text.split())
