"""Progress bars, one for each stage of a run, and plain lines on standard error."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from layerprune.runtime import processes
from layerprune.runtime.redact import redacted


class Advance(Protocol):
    """A function that moves a progress bar."""

    def __call__(self, steps: float, status: str = "") -> None:
        """Move by `steps`, and show `status` beside the bar until another replaces it."""


class OneLine(logging.Formatter):
    """Format log entries for the screen: one line without secrets or traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the first line of an entry."""
        record.message = record.getMessage()
        return redacted(self.formatMessage(record).split("\n")[0])


console = Console(stderr=True, quiet=not processes.is_main())

PLAIN_EVERY_S = 15.0
"""Interval between the lines of a bar without a terminal."""

PLAIN_FROM_S = 2.0
"""Shortest duration for which an outermost bar without a terminal prints its end."""

EARLY = 0.05
"""Fraction of a bar that must be done before its remaining time is estimated."""

_open_bars: list[Progress | None] = []
"""Open bars of this process, as the terminal's one display, or None without a terminal."""


def say(message: str) -> None:
    """Print one plain line, without secrets; on a terminal it appears above the bars."""
    console.print(redacted(message), markup=False, highlight=False, soft_wrap=True)


@cache
def say_once(message: str) -> None:
    """Print a line unless it was printed before."""
    say(message)


def format_duration(seconds: float) -> str:
    """Format a duration in hours, minutes or seconds."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


@contextmanager
def progress_bar(title: str, total: int, estimate: bool = True) -> Iterator[Advance]:
    """Show a bar of `total` steps and yield the function that moves it. Bars may nest.

    With `estimate`, it shows a remaining time, as if each step took equally long.
    """
    with (_terminal_bar if console.is_terminal else _plain_bar)(title, total, estimate) as advance:
        yield advance


class _RemainingColumn(TimeRemainingColumn):
    """The remaining time of bars with an estimate."""

    def render(self, task: Task) -> Text:
        """Return the remaining time, or nothing."""
        return super().render(task) if task.fields["estimate"] else Text()


@contextmanager
def _terminal_bar(title: str, total: int, estimate: bool) -> Iterator[Advance]:
    display = _open_bars[0] if _open_bars else None
    outermost = display is None
    if display is None:
        display = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _RemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
        )
        display.start()
    _open_bars.append(display)
    task = display.add_task(title, total=total, status="", estimate=estimate)

    def advance(steps: float, status: str = "") -> None:
        display.advance(task, steps)
        if status:
            display.update(task, status=status)

    try:
        yield advance
    finally:
        _open_bars.pop()
        if outermost:
            display.stop()
        else:
            display.remove_task(task)


@contextmanager
def _plain_bar(title: str, total: int, estimate: bool) -> Iterator[Advance]:
    started = last = time.monotonic()
    done = 0.0

    def advance(steps: float, status: str = "") -> None:
        nonlocal done, last
        done += steps
        now = time.monotonic()
        if now - last >= PLAIN_EVERY_S and EARLY * total < done < total:
            last = now
            left = format_duration((now - started) * (total - done) / done)
            suffix = f" ({status})" if status else ""
            say(f"{title}: {int(done)}/{total}{f', about {left} left' * estimate}{suffix}")

    _open_bars.append(None)
    try:
        yield advance
    finally:
        _open_bars.pop()
    took = time.monotonic() - started
    if not _open_bars and took >= PLAIN_FROM_S:
        say(f"{title}: {round(done)}/{total} in {took:.0f} s")
