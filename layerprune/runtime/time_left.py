"""The time until the last point of a study is finished."""

from collections.abc import Sequence
from statistics import fmean

SETTLED_S = 5.0
"""Points that finish within this time of each other finish together."""


class TimeLeft:
    """Estimates when the last point of a study is finished, from those that finish meanwhile.

    How it works:
    1. Unhealed points finish together, at the end of a shared pass, and predict nothing: while one
       is unfinished, there is no estimate.
    2. A healed point takes as long as others of its model and recipe did.
    3. Their durations, over the time since the first of them began, are the speed of all processes.
    """

    def __init__(self, now: float) -> None:
        self._started = self._began = self._last = now
        self._finished_s = 0.0
        self._durations: dict[str, list[float]] = {}

    def finish(self, kind: str | None, duration: float, now: float) -> None:
        """Note a finished point; its kind is None without healing."""
        if kind is None:
            return
        if not self._durations:
            self._began = max(self._started, now - duration)
        self._durations.setdefault(kind, []).append(duration)
        # Training that was resumed began before this run.
        self._finished_s += min(duration, now - self._began)
        self._last = now

    def seconds(self, unfinished: Sequence[str | None], now: float) -> float | None:
        """Return the time left for points of these kinds; None if it is not known.

        It is not known while points finish together, nor once the next one is late.
        """
        took = self._last - self._began
        known = all(kind in self._durations for kind in unfinished)
        if not known or not self._finished_s or now - self._last < SETTLED_S:
            return None
        work = sum(fmean(self._durations[str(kind)]) for kind in unfinished)
        left = work * took / self._finished_s - (now - self._last)
        return left if left > 0 else None
