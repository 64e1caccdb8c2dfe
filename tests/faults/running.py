"""Runs of the program in separate processes, disturbed or not, and what they leave on disk.

Processes are forked from one that has PyTorch loaded, so a run takes a second or two.
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

from layerprune.runtime.atomic_files import UNFINISHED, read_checksummed

HOME = Path(__file__).parent.parent

Disturb = Callable[[], None]
"""Runs in the process before the program does."""

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["faults.loaded"])


def _serve() -> None:
    """Start the process that runs are forked from; it imports by its environment alone."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (HOME, HOME / "helpers", HOME.parent)))
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


SAME = "a rerun completes; same records"
"""State after most runs, for the table."""

PATIENCE_S = 240
"""Seconds after which a run counts as hung."""


@dataclass(frozen=True)
class Ended:
    """The exit status and output of a run."""

    status: int | None
    """Exit status; minus the number of the signal that ended the process."""
    said: str

    @property
    def last(self) -> str:
        """The last line printed."""
        lines = [line for line in self.said.splitlines() if line.startswith("layerprune: ")]
        return lines[-1].removeprefix("layerprune: ") if lines else ""


class Place:
    """A folder for the runs of one study."""

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
        """Start a run; the report, which takes longest, is only drawn on demand."""
        _serve()
        said = self._said()
        process = _PROCESSES.Process(
            target=_program, args=(self.arguments(*overrides), self.folder, said, disturb, report)
        )
        process.start()
        return process, said

    def run(self, *overrides: str, disturb: Disturb | None = None, report: bool = False) -> Ended:
        """Start a run and wait for its end."""
        return ended(*self.start(*overrides, disturb=disturb, report=report))

    def spawn(self, *overrides: str) -> tuple[subprocess.Popen, Path]:
        """Start a run in a new process, which may start others."""
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
        """Wait for a spawned run."""
        try:
            status = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"it hangs:\n{said.read_text()[-3000:]}") from None
        return Ended(status, said.read_text(errors="replace"))

    def _said(self) -> Path:
        return self.folder / f"said-{len(list(self.folder.glob('said-*')))}.txt"

    def seconds(self) -> float:
        """CPU seconds of the last successful run."""
        return float((self.folder / "seconds").read_text())

    def results(self) -> dict[str, object]:
        """Return the points' results, without times and paths."""
        found = {}
        for path in self.study.glob("points/*/record.json"):
            record = read_checksummed(path)
            healing = record["healing"] and [
                (step["loss"], step["heldout"]) for step in record["healing"]["steps"]
            ]
            parts = [record[name] for name in ("identity", "plan", "scores", "loss")]
            found[path.parent.name] = json.dumps([*parts, healing], sort_keys=True)
        return found

    def half_files(self) -> list[Path]:
        """Return files that look complete and are damaged."""
        return [path for path in self.outputs.rglob("*") if path.is_file() and not _whole(path)]

    def remains(self) -> list[Path]:
        """Return unfinished files and folders."""
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

    from layerprune import cli

    torch.set_num_threads(1)
    if not report:
        cli.show_study = lambda *_: None
    if disturb is not None:
        disturb()
    begun = time.process_time()
    cli.main()
    (cwd / "seconds").write_text(str(time.process_time() - begun))


def _whole(path: Path) -> bool:
    """Return True if a file is intact; unfinished ones have other names."""
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
    """Return a message without the parts that differ between runs."""
    text = text.replace(f"{folder}/", "")
    text = re.sub(r"-[0-9a-f]{12}\b", "-KEY", text)
    text = re.sub(r"\b[0-9a-f]{12,16}\b", "KEY", text)
    return " ".join(text.split())
