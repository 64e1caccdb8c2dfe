"""The points of some jobs that are not there yet, and the right to make them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from layerprune import processes
from layerprune.job import Job
from layerprune.locks import Claim
from layerprune.plan.target import Target
from layerprune.progress import say_once

FOREVER = -1.0


@dataclass(frozen=True)
class Wanted:
    """A point to be made."""

    job: Job
    key: str
    target: Target

    @property
    def folder(self) -> Path:
        """Where everything of it lies."""
        return self.job.store.point_folder(self.key)


@dataclass
class Outcome:
    """Why points are not there after they were asked for."""

    failed: dict[Path, str] = field(default_factory=dict)
    """By their folder."""
    refused: dict[str, list[Path]] = field(default_factory=dict)
    """Points that nothing was tried for, or that have no checkpoint, by what the user can mend."""

    def gave_up(self, folder: Path) -> bool:
        """Whether nothing more is tried for a point."""
        return folder in self.failed or any(folder in each for each in self.refused.values())


def missing(jobs: Sequence[Job], but: Outcome) -> list[Wanted]:
    """The points of `jobs` that have no record, in their order, each once.

    Those that `but` gave up are left alone.
    """
    found = {}
    for job in jobs:
        for key, target in job.targets.items():
            wanted = Wanted(job, key, target)
            known = wanted.folder in found or but.gave_up(wanted.folder)
            if not known and job.store.read(key) is None:
                found[wanted.folder] = wanted
    return list(found.values())


@contextmanager
def claimed(todo: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    """Those of some points that nobody else makes while the block lasts.

    Where others make all of them, this waits for the first, and yields it, or nothing if it is
    there by then. Processes of one run (`torchrun`) make the same points together and claim none.
    """
    if processes.count() > 1:
        yield list(todo)
        return
    claims = [(each, Claim(each.folder)) for each in todo]
    mine = [(each, claim) for each, claim in claims if claim.taken()]
    if not mine:
        say_once(f"Another run makes the {len(todo)} points that are missing here: waiting for it.")
        mine = [pair for pair in claims[:1] if pair[1].taken(FOREVER)]
    try:
        # Another process may have made them between the look and the claim, or just now.
        yield [each for each, _ in mine if each.job.store.read(each.key) is None]
    finally:
        for _, claim in mine:
            claim.give_back()
