"""How far the points of a study are: before they are made, and while they are."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from layerprune.job import Job
from layerprune.locks import is_claimed
from layerprune.progress import bar, spoken
from layerprune.record.point import Point
from layerprune.record.store import FAILED, RECORD

COUNTS = ("done", "failed", "to do", "time left")

LOOK_EVERY_S = 1.0
"""At the files of other processes."""


@dataclass(frozen=True)
class Share:
    """The points of one line of a grid: a model, a strategy and a recipe."""

    title: str
    done: int
    failed: int
    todo: int
    seconds: float | None
    """What those to do will take, by those that are done; None if none is."""


def shares(jobs: Sequence[Job]) -> list[Share]:
    """How far jobs are, by their titles; a point that two jobs ask for counts once."""
    of_title: dict[str, dict[Path, Point | str | None]] = {}
    for job in jobs:
        states = of_title.setdefault(job.kind, {})
        for key in job.targets:
            folder = job.store.point_folder(key)
            states[folder] = job.store.read(key) or job.store.failure(key)
    return [_share(title, list(states.values())) for title, states in of_title.items()]


def show_grid(jobs: Sequence[Job]) -> None:
    """Print a line for each model, strategy and recipe: done, failed, to do, and the time left."""
    table = Table("points", *(Column(name, justify="right") for name in COUNTS), box=SIMPLE)
    lines = shares(jobs)
    for share in lines:
        left = "not known" if share.seconds is None else spoken(share.seconds)
        counts = map(str, (share.done, share.failed, share.todo))
        table.add_row(share.title, *counts, left if share.todo else "")
    console = Console()
    console.print(table)
    todo = sum(share.todo for share in lines)
    of_all = sum(share.done for share in lines) + todo
    text = f"{of_all} points, {todo} to do"
    known = [share.seconds for share in lines if share.todo and share.seconds is not None]
    if known:
        text += f": about {spoken(sum(known))}, by those of their kind that are done"
        unknown = sum(share.todo for share in lines if share.seconds is None)
        text += f", but for {unknown} of which none is done" if unknown else ""
    console.print(f"{text}.", highlight=False)


def _share(title: str, states: Sequence[Point | str | None]) -> Share:
    points = [state for state in states if isinstance(state, Point)]
    failed = sum(isinstance(state, str) for state in states)
    todo = len(states) - len(points)
    mean = sum(map(took, points)) / len(points) if points else None
    seconds = None if mean is None and todo else (mean or 0.0) * todo
    return Share(title, len(points), failed, todo, seconds)


def took(point: Point) -> float:
    """Seconds that a point took, healing included; a share of what several took together."""
    healing = point.healing or {}
    parts = (
        *point.costs["seconds"].values(),
        healing.get("seconds"),
        healing.get("prepare_seconds"),
    )
    return float(sum(part for part in parts if part is not None))


@contextmanager
def watched(name: str, jobs: Sequence[Job]) -> Iterator[None]:
    """A bar of all points of a study while they are made, by this process or by others.

    It says how many are at work and how many failed; bars of stages stand below it.
    """
    folders = {job.store.point_folder(key): job for job in jobs for key in job.targets}
    open_ = {folder for folder in folders if not (folder / RECORD).is_file()}
    if not open_:
        yield
        return
    started = time.time()
    stop = threading.Event()
    with bar(f"study {name}", total=len(open_)) as advance:

        def look() -> None:
            made = {folder for folder in open_ if (folder / RECORD).is_file()}
            open_.difference_update(made)
            working = sum(is_claimed(folder) for folder in open_)
            failed = sum(_failed_since(folder, started) for folder in open_)
            said = f"{working} at work" + (f", {failed} failed" if failed else "")
            advance(len(made), said)

        def keep_looking() -> None:
            while not stop.wait(LOOK_EVERY_S):
                look()

        thread = threading.Thread(target=keep_looking, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            look()


def _failed_since(folder: Path, started: float) -> bool:
    try:
        return (folder / FAILED).stat().st_mtime >= started
    except OSError:
        return False
