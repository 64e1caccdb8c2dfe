"""Progress of a study's points: before they are made, and while they are."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from layerprune.record.point import Point
from layerprune.record.store import FAILED, RECORD
from layerprune.run.job import Job
from layerprune.runtime.locks import is_claimed
from layerprune.runtime.progress import format_duration, progress_bar, say
from layerprune.runtime.time_left import TimeLeft

POLL_EVERY_S = 1.0
"""Interval at which the files of other processes are checked."""


@dataclass(frozen=True)
class CurveStatus:
    """Counts of the points of one model, strategy, recipe and metric."""

    title: str
    done: int
    failed: int
    todo: int
    seconds: float | None
    """Estimate for the points to do, from the finished ones; None if there is none."""


def curve_statuses(jobs: Sequence[Job]) -> list[CurveStatus]:
    """Return the status of jobs by title; a point that two jobs request counts once."""
    by_title: dict[str, dict[Path, Point | str | None]] = {}
    for job in jobs:
        states = by_title.setdefault(job.curve_title, {})
        for key in job.targets:
            folder = job.store.point_folder(key)
            states[folder] = job.store.read(key) or job.store.failure(key)
    statuses = []
    for title, states in by_title.items():
        points = [state for state in states.values() if isinstance(state, Point)]
        failed = sum(isinstance(state, str) for state in states.values())
        todo = len(states) - len(points)
        seconds = 0.0 if todo == 0 else None
        if points:
            seconds = todo * fmean(point.total_seconds for point in points)
        statuses.append(CurveStatus(title, len(points), failed, todo, seconds))
    return statuses


def say_notes(jobs: Sequence[Job]) -> None:
    """Print the notes of jobs, each once."""
    for note in dict.fromkeys(note for job in jobs for note in job.notes):
        say(note)


def announce(jobs: Sequence[Job]) -> None:
    """Print the number of points of each curve, and how many are finished."""
    say_notes(jobs)
    for status in curve_statuses(jobs):
        count = status.done + status.todo
        points = "point" if count == 1 else "points"
        say(f"{status.title}: {count} {points}, {status.done} of them finished.")


def show_status(jobs: Sequence[Job]) -> None:
    """Print a row for each curve: points done, failed, to do, and the time left."""
    columns = [Column(name, justify="right") for name in ("done", "failed", "to do", "time left")]
    table = Table("points", *columns, box=SIMPLE)
    statuses = curve_statuses(jobs)
    for status in statuses:
        left = "not known" if status.seconds is None else format_duration(status.seconds)
        counts = map(str, (status.done, status.failed, status.todo))
        table.add_row(status.title, *counts, left if status.todo else "")
    console = Console()
    console.print(table)
    pending = [status for status in statuses if status.todo]
    todo = sum(status.todo for status in pending)
    text = f"{todo + sum(status.done for status in statuses)} points, {todo} to do"
    seconds = [status.seconds for status in pending if status.seconds is not None]
    if seconds:
        text += f": about {format_duration(sum(seconds))}, estimated from finished points"
        unknown = sum(status.todo for status in pending if status.seconds is None)
        text += f", plus {unknown} on curves without any" if unknown else ""
    console.print(f"{text}.", highlight=False)


@contextmanager
def study_progress_bar(jobs: Sequence[Job]) -> Iterator[None]:
    """Show a bar of a study's points while the block makes them, here or in other processes.

    It tells how many points are in progress, how many failed and, once it is known, the time left;
    bars of stages appear below it.
    """
    points = {job.store.point_folder(key): (job, key) for job in jobs for key in job.targets}
    unfinished = {folder for folder in points if not (folder / RECORD).is_file()}
    if not unfinished:
        yield
        return
    started = time.time()
    stop = threading.Event()
    time_left = TimeLeft(time.monotonic())
    study = jobs[0].config.study
    with progress_bar(f"study {study}", len(unfinished), estimate=False) as advance:

        def kind(folder: Path) -> str | None:
            job, _ = points[folder]
            return f"{job.source.name} {job.config.heal.recipe}" if job.healed else None

        def update() -> None:
            finished = {folder for folder in unfinished if (folder / RECORD).is_file()}
            unfinished.difference_update(finished)
            for folder in finished:
                job, key = points[folder]
                point = job.store.read(key) if job.healed else None
                duration = 0.0 if point is None else point.total_seconds
                time_left.finish(kind(folder), duration, time.monotonic())
            failed = {folder for folder in unfinished if _failed_since(folder, started)}
            parts = [f"{sum(map(is_claimed, unfinished))} in progress"]
            if failed:
                parts.append(f"{len(failed)} failed")
            left = time_left.seconds([*map(kind, unfinished - failed)], time.monotonic())
            if left is not None:
                parts.append(f"about {format_duration(left)} left")
            advance(len(finished), ", ".join(parts))

        def poll() -> None:
            while not stop.wait(POLL_EVERY_S):
                update()

        thread = threading.Thread(target=poll, name="study progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            update()


def _failed_since(folder: Path, started: float) -> bool:
    try:
        return (folder / FAILED).stat().st_mtime >= started
    except OSError:
        return False
