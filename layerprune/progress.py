"""What a person sees while a run is under way: a bar for each stage, with the time that remains."""

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
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from layerprune import processes
from layerprune.redact import redacted


class Advance(Protocol):
    """Moves a bar on."""

    def __call__(self, steps: float, said: str = "") -> None:
        """By so many steps; `said` is shown beside the bar until something else is."""


class OneLine(logging.Formatter):
    """A log's entry for the screen, without where in the program it was: the log file has that."""

    def format(self, record: logging.LogRecord) -> str:
        """Its first line, without secrets."""
        record.message = record.getMessage()
        return redacted(self.formatMessage(record).split("\n")[0])


console = Console(stderr=True, quiet=not processes.first())

PLAIN_EVERY_S = 15.0
"""Without a terminal, a bar is a line as often as this."""

PLAIN_FROM_S = 2.0
"""Without a terminal, a bar that was done sooner than this, or stood inside another, is not
mentioned at its end."""

EARLY = 0.05
"""Of a bar: what is left cannot be told from less."""

_live: list[Progress] = []
"""The one display on a terminal, while any bar is open."""

_open = 0
"""Bars that are open without a terminal."""


def say(message: str) -> None:
    """Print one plain line, without secrets; on a terminal it appears above the bars."""
    console.print(redacted(message), markup=False, highlight=False, soft_wrap=True)


@cache
def say_once(message: str) -> None:
    """Print a line the first time it is said."""
    say(message)


def spoken(seconds: float) -> str:
    """A time for people."""
    minutes, hours = seconds / 60, seconds / 3600
    return (
        f"{hours:.1f} h"
        if hours >= 1
        else f"{minutes:.0f} min"
        if minutes >= 2
        else f"{seconds:.0f} s"
    )


@contextmanager
def bar(title: str, total: int) -> Iterator[Advance]:
    """A bar of `total` steps; the function it yields moves it on. Bars may nest."""
    with (_terminal_bar if console.is_terminal else _plain_bar)(title, total) as advance:
        yield advance


@contextmanager
def _terminal_bar(title: str, total: int) -> Iterator[Advance]:
    outermost = not _live
    if outermost:
        _live.append(
            Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[said]}"),
                console=console,
            )
        )
        _live[0].start()
    display = _live[0]
    task = display.add_task(title, total=total, said="")

    def advance(steps: float, said: str = "") -> None:
        display.advance(task, steps)
        if said:
            display.update(task, said=said)

    try:
        yield advance
    finally:
        if outermost:
            _live.clear()
            display.stop()
        else:
            display.remove_task(task)


@contextmanager
def _plain_bar(title: str, total: int) -> Iterator[Advance]:
    global _open
    started = last = time.monotonic()
    done = 0.0

    def advance(steps: float, said: str = "") -> None:
        nonlocal done, last
        done += steps
        now = time.monotonic()
        if now - last >= PLAIN_EVERY_S and EARLY * total < done < total:
            last = now
            left = (now - started) * (total - done) / done
            beside = f" ({said})" if said else ""
            say(f"{title}: {int(done)}/{total}, about {left:.0f} s left{beside}")

    _open += 1
    try:
        yield advance
    finally:
        _open -= 1
    took = time.monotonic() - started
    if _open == 0 and took >= PLAIN_FROM_S:
        say(f"{title}: {round(done)}/{total} in {took:.0f} s")
