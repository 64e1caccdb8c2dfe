"""Pending points of a set of jobs, and the locks that claim them."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from layerprune.errors import RunErrors, UserError, refusal
from layerprune.prune.target import Target
from layerprune.run.job import Job
from layerprune.runtime import processes
from layerprune.runtime.locks import WITHOUT_LIMIT, Claim
from layerprune.runtime.progress import say_once

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PendingPoint:
    """A requested point without a record."""

    job: Job
    key: str
    target: Target

    @property
    def folder(self) -> Path:
        """The folder of everything that belongs to the point."""
        return self.job.store.point_folder(self.key)

    @property
    def title(self) -> str:
        """The title of the job."""
        return self.job.title

    def record_failure(self, error: Exception) -> str:
        """Write `failed.json` and the log; return the reason as one line."""
        log.error("The point %s failed.", self.key, exc_info=error)
        reason = " ".join(str(error).split())
        if isinstance(error, OSError) and error.errno is not None:
            reason = refusal(error)
        elif not isinstance(error, UserError):
            reason = f"{self.title}: {type(error).__name__}: {reason}"
        if processes.is_main():
            with suppress(OSError):  # where a record cannot be written, neither can this
                identity = self.job.identity(self.target)
                self.job.store.write_failure(self.key, identity, reason, error)
        return reason


def pending_points(jobs: Sequence[Job], errors: RunErrors) -> list[PendingPoint]:
    """Return the points of `jobs` without a record, in request order, each once.

    Points that `errors` gave up are left out.
    """
    pending = {}
    for job in jobs:
        for key, target in job.targets.items():
            point = PendingPoint(job, key, target)
            taken = point.folder in pending or errors.gave_up(point.folder)
            if not taken and job.store.read(key) is None:
                pending[point.folder] = point
    return list(pending.values())


@contextmanager
def claimed(pending: Sequence[PendingPoint]) -> Iterator[list[PendingPoint]]:
    """Yield the points of `pending` that no other process works on while the block lasts.

    If others work on all of them, wait for the first, and yield it unless it has a record by then.
    Processes of one run (`torchrun`) share the same points and claim none.
    """
    if processes.num_processes() > 1:
        yield list(pending)
        return
    claims = [(point, Claim(point.folder)) for point in pending]
    acquired = [(point, claim) for point, claim in claims if claim.acquire()]
    if not acquired:
        say_once(f"Another run is making the {len(pending)} points missing here: waiting for it.")
        acquired = [pair for pair in claims[:1] if pair[1].acquire(WITHOUT_LIMIT)]
    try:
        # Another process may have made a point before the claim was acquired.
        yield [point for point, _ in acquired if point.job.store.read(point.key) is None]
    finally:
        for _, claim in acquired:
            claim.release()
