"""Faults inside the process of a run: each function is called before the program."""

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def changes(watched: Path, at: Callable[[int, str], None]) -> None:
    """Call `at` with number and path before each change of a file or folder under `watched`.

    Audit events of Python; what is written from Rust has a rename after it that is one.
    """
    count = 0
    root = str(watched)

    def hook(event: str, args: tuple) -> None:
        nonlocal count
        if event == "open":
            path, _, flags = args
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in CHANGES:
            path = args[1] if event == "os.rename" else args[0]
        else:
            return
        path = os.fspath(path) if not isinstance(path, int) else ""
        if isinstance(path, str) and os.path.abspath(path).startswith(root):
            count += 1
            at(count, os.path.abspath(path)[len(root) + 1 :])

    sys.addaudithook(hook)


def write_down(watched: Path, log: Path) -> None:
    """Log the files and folders that the run changes, one line each."""

    def note(count: int, path: str) -> None:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, f"{path}\n".encode())
        os.close(handle)

    changes(watched, note)


def signalled(watched: Path, number: int, at: int, twice: bool = False) -> None:
    """Send the process a signal before its change number `at`, and once more after the next one."""

    def send(count: int, path: str) -> None:
        if count == at or (twice and count == at + 1):
            os.kill(os.getpid(), number)

    changes(watched, send)


def stopped_after(seconds: float) -> None:
    """End the process, whatever it does then, after so many seconds of work.

    By the signal of a timer that counts them, which nothing catches: as sudden as SIGKILL.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)


def vanishing(watched: Path, part: str, what: Path) -> None:
    """Remove a folder before the first change of a path that contains `part`."""
    gone = False

    def remove(count: int, path: str) -> None:
        nonlocal gone
        if not gone and part in path:
            gone = True
            shutil.rmtree(what)

    changes(watched, remove)


def jumping(days: float) -> None:
    """Let the clock jump back and forth at every call."""
    real = time.time
    looks = 0

    def jumped() -> float:
        nonlocal looks
        looks += 1
        return real() + (days * 86400 if looks % 2 else 0.0)

    time.time = jumped


def starved(watched: Path, part: str) -> None:
    """Refuse memory from the first change of a path that contains `part`."""
    starving = False

    def starve(count: int, path: str) -> None:
        nonlocal starving
        if not starving and part in path:
            starving = True
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            now = pages * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now, resource.RLIM_INFINITY))

    changes(watched, starve)


def narrow(headroom: int) -> None:
    """Limit the process to some more bytes than it has now, and report more as free."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + headroom
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
