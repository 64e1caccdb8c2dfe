"""A study's runs, brought to where the tracker wants them: what is missing there, nothing twice."""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from layerprune.config.schema import TrackerConfig, TrackerMode
from layerprune.errors import UserError
from layerprune.progress import bar, say
from layerprune.redact import redacted
from layerprune.track.runs import Run, make_runs
from layerprune.track.state import Sent, State

log = logging.getLogger(__name__)

WAIT_S = 60.0
"""How long another process that sends the same study is waited for."""


@dataclass(frozen=True)
class Mirrored:
    """What came of it."""

    sent: int
    """Runs that were written or uploaded."""
    kept: int
    """Runs that were there already."""
    failed: str
    """Why not all is there, in one line; empty if all is."""


def mirror(study: Path, tracker: TrackerConfig, everything: bool = False) -> Mirrored:
    """Send the runs of a study that are not there yet, or `everything`, from its records alone.

    Whatever W&B does, this returns, and says in one line what went wrong: the records are the
    truth, and the next call sends what this one could not. Only one process sends at a time.
    """
    if tracker.mode is TrackerMode.disabled:
        return Mirrored(0, 0, "")
    state = State(study / "wandb")
    runs: list[Run] = []
    sent: list[Run] = []
    failed = ""
    try:
        runs, skipped = make_runs(study)
        for line in skipped:
            log.info("Not sent: %s", line)
        to = f"{tracker.entity or ''}/{tracker.project}"
        # A look without the lock: a study that is there as a whole costs no more than this.
        if everything or State.read(state.folder).missing(runs, tracker.mode, to):
            state.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(state.folder / ".lock", timeout=WAIT_S):
                state = State.read(state.folder)
                wanted = runs if everything else state.missing(runs, tracker.mode, to)
                _send(study, tracker, to, wanted, state, sent)
    except Timeout:
        failed = f"another process has been sending {study} for {WAIT_S:.0f} s"
    except Exception as error:
        log.info("Weights & Biases failed.", exc_info=True)
        failed = redacted(" ".join(str(error).split())) or type(error).__name__
    if failed:
        say(
            f"Weights & Biases failed ({failed}); the records are whole. "
            f"`python -m layerprune.track {study}` sends what is missing."
        )
    return Mirrored(len(sent), len(runs) - len(sent), failed)


def _send(
    study: Path, tracker: TrackerConfig, to: str, runs: list[Run], state: State, sent: list[Run]
) -> None:
    """Send these runs, and keep which ones were, whatever happens; stop at the first that fails."""
    if not runs:
        return
    from layerprune.track.pictures import Pictures
    from layerprune.track.send import sending

    mode = tracker.mode.value
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            bar(f"{study.name} W&B", total=len(runs)) as advance,
            sending(tracker, study) as sender,
        ):
            pictures = Pictures(study, Path(folder))
            for run in runs:
                before = state.runs.get(run.id)
                known = None
                if before is not None and before.mode == mode and before.to == to:
                    known = before.sent_as
                sent_as = sender.send(run, known, pictures.of(run))
                state.runs[run.id] = Sent(run.content, mode, to, sent_as)
                sent.append(run)
                advance(1)
            if mode == TrackerMode.offline.value and sender.synced:
                say(
                    f"{sender.synced} runs of {study.name} were synced before and have changed: "
                    "`wandb sync` would add all their rows again. "
                    f"`python -m layerprune.track {study} --mode online` adds what is missing."
                )
    finally:
        if sent:
            state.write()


def recorded_tracker(study: Path) -> TrackerConfig:
    """The tracker that the newest record of a study was made with; offline if it had none.

    Raises `UserError` if the study has no record.
    """
    from layerprune.record.store import Store

    if not study.is_dir():
        raise UserError(f"{study} is not a folder: name the folder of a study, outputs/STUDY.")
    points = [point for _, point, _ in Store(study).points() if point is not None]
    if not points:
        raise UserError(f"{study} holds no record that can be read.")
    newest = max(points, key=lambda point: str(point.provenance.get("time", "")))
    said = newest.config.get("tracker", {})
    tracker = TrackerConfig(
        mode=TrackerMode(said.get("mode", TrackerMode.offline.value)),
        project=said.get("project", TrackerConfig().project),
        entity=said.get("entity"),
    )
    if tracker.mode is TrackerMode.disabled:
        tracker.mode = TrackerMode.offline
    return tracker
