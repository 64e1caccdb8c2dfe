"""Run every preset of the bundled models, two at a time, and record what each took.

    python experiments/minis.py [--at-once 2] [--outputs outputs]

`make experiments` runs it, after `make families`. Run it again to resume. The cores are shared
between presets, since much of a run keeps one of them busy. Presets that measure time run alone, at
the end. The output of each is in OUTPUTS/minis/NAME.log, and its seconds, summed over all starts,
in OUTPUTS/minis.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path
from typing import NamedTuple

from layerprune.config.compose import conf_dir
from layerprune.runtime.atomic_files import write_json

ROOT = Path(__file__).resolve().parent.parent

ALONE = ("speed", "training_cost")
"""Presets that measure time."""

LONGEST = (
    "fig2", "fig1", "metrics", "recipes", "fig5", "predictor", "demo", "fit", "fig9",
    "fig8", "fig6",
)  # fmt: skip
"""What is started first, so that no core is idle at the end, and none waits for what it needs."""

NEEDS = {**dict.fromkeys(("fig3", "fig5", "fig8"), ("fig1",)),
         **dict.fromkeys(("demo_healed", "fit"), ("demo",))}  # fmt: skip
"""Presets whose points or answers a preset shares."""


class Task(NamedTuple):
    """What Python is to run."""

    name: str
    arguments: tuple[str, ...]


def presets(outputs: Path) -> list[Task]:
    """Every preset that needs no GPU and no hub, the longest first."""
    names = sorted(path.stem for path in conf_dir().glob("experiment/*.yaml"))
    names = [name for name in names if not name.endswith("_paper")]
    names.sort(key=lambda name: LONGEST.index(name) if name in LONGEST else len(LONGEST))
    return [
        Task(name, ("main.py", f"experiment={name}", f"runtime.outputs={outputs}"))
        for name in names
    ]


def run(tasks: Sequence[Task], at_once: int, outputs: Path) -> Iterator[tuple[str, float, int]]:
    """Name, seconds and exit status of each task, as they end. What one needs comes before it."""
    threads = max(1, (os.cpu_count() or 1) // at_once)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    begun: dict[str, Future[tuple[str, float, int]]] = {}

    def one(task: Task) -> tuple[str, float, int]:
        wait([begun[name] for name in NEEDS.get(task.name, ()) if name in begun])
        started = time.monotonic()
        with (outputs / "minis" / f"{task.name}.log").open("a") as log:
            ended = subprocess.run(
                [sys.executable, *task.arguments], cwd=ROOT, env=environment, stdout=log,
                stderr=log, check=False,
            )  # fmt: skip
        return task.name, time.monotonic() - started, ended.returncode

    (outputs / "minis").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(at_once) as workers:
        for task in tasks:
            begun[task.name] = workers.submit(one, task)
        try:
            for done in as_completed(begun.values()):
                yield done.result()
        except KeyboardInterrupt:  # the runs have heard it, too
            workers.shutdown(cancel_futures=True)
            raise


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all, print what each took, and fail if one of them did."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs")
    options = parser.parse_args(arguments)
    outputs = options.outputs.resolve()
    tasks = presets(outputs)
    shared = [task for task in tasks if task.name not in ALONE]
    alone = [task for task in tasks if task.name in ALONE]
    failed = []
    for some, at_once in ((shared, options.at_once), (alone, 1)):
        for name, seconds, status in run(some, at_once, outputs):
            if status:
                failed.append(name)
            print(f"{name}: {f'exit status {status}' if status else 'done'} in {seconds:,.0f} s",
                  flush=True)  # fmt: skip
            _add(outputs / "minis.json", name, seconds)
    if failed:
        sys.exit(f"{', '.join(failed)}: not done; {outputs / 'minis'} has what they said.")


def _add(file: Path, name: str, seconds: float) -> None:
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    write_json(file, {**known, name: known.get(name, 0.0) + seconds})


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Stopped: the same command goes on.")
