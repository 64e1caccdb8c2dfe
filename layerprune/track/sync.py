"""Send a study's missing runs to Weights & Biases."""

import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from layerprune.config.schema import TrackerConfig, TrackerMode
from layerprune.errors import UserError
from layerprune.record.store import Store
from layerprune.runtime.atomic_files import read_checksummed, write_checksummed
from layerprune.runtime.cache import read_intact
from layerprune.runtime.progress import progress_bar, say
from layerprune.runtime.redact import redacted
from layerprune.track.runs import Media, WandbRun, make_runs
from layerprune.track.send import run_folders, sending

log = logging.getLogger(__name__)

MIRRORED = "mirrored.json"

WAIT_S = 60.0
"""Seconds to wait for another process that sends the same study."""


@dataclass(frozen=True)
class MirrorResult:
    """The number of runs sent, and the error if one failed."""

    sent: int
    """Runs written or uploaded."""
    kept: int
    """Runs that were sent before."""
    error: str
    """Why a run was not sent, in one line; empty if all were."""


@dataclass(frozen=True)
class SentRun:
    """A run as it was last sent."""

    content: str
    """Hash of its content."""
    mode: str
    """`offline`: written to a folder beside the state. `online`: on the server."""
    to: str
    """ENTITY/PROJECT."""
    sent_as: str
    """Its id there: the run's, unless the server had other content under it."""


@dataclass
class MirrorState:
    """The sent runs of a study by id, as kept in its file `mirrored.json`."""

    folder: Path
    """`outputs/STUDY/wandb`."""
    runs: dict[str, SentRun]

    @classmethod
    def read(cls, folder: Path) -> "MirrorState":
        """Read the state in a folder; an empty one if it is missing or damaged."""
        return cls(folder, read_intact(folder / MIRRORED, _read_runs) or {})

    def write(self) -> None:
        """Write the state atomically."""
        runs = {name: asdict(sent) for name, sent in self.runs.items()}
        write_checksummed(self.folder / MIRRORED, {"schema": 1, "runs": runs})

    def missing(self, runs: list[WandbRun], mode: TrackerMode, to: str) -> list[WandbRun]:
        """Return the runs that were not sent; those on the server are not written offline."""
        written = {name.rpartition("-")[2] for name in run_folders(self.folder)}
        missing = []
        for run in runs:
            sent = self.runs.get(run.id)
            is_sent = sent is not None and (sent.content, sent.to) == (run.content, to)
            if sent is not None and sent.mode != TrackerMode.online.value:
                is_sent &= mode is TrackerMode.offline and sent.sent_as in written
            if not is_sent:
                missing.append(run)
        return missing


def _read_runs(path: Path) -> dict[str, SentRun]:
    return {name: SentRun(**sent) for name, sent in read_checksummed(path)["runs"].items()}


def mirror(study: Path, tracker: TrackerConfig, everything: bool = False) -> MirrorResult:
    """Send the missing runs of a study, or `everything`, from its records alone.

    Errors of W&B are printed in one line, not raised: the records are complete, and the next call
    sends what this one could not. Only one process sends at a time.
    """
    if tracker.mode is TrackerMode.disabled:
        return MirrorResult(0, 0, "")
    folder = study / "wandb"
    runs: list[WandbRun] = []
    sent: list[WandbRun] = []
    error_line = ""
    try:
        runs, skipped = make_runs(study)
        for line in skipped:
            log.info("Not sent: %s", line)
        to = f"{tracker.entity or ''}/{tracker.project}"
        # Checked without the lock first: a study that was sent completely costs no more.
        if everything or MirrorState.read(folder).missing(runs, tracker.mode, to):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock", timeout=WAIT_S):
                state = MirrorState.read(folder)
                wanted = runs if everything else state.missing(runs, tracker.mode, to)
                _send(study, tracker, to, wanted, state, sent)
    except Timeout:
        error_line = f"another process has been sending {study} for {WAIT_S:.0f} s"
    except Exception as error:
        log.info("Weights & Biases failed.", exc_info=True)
        error_line = redacted(" ".join(str(error).split())) or type(error).__name__
    if error_line:
        say(
            f"Weights & Biases failed ({error_line}); the records are complete. "
            f"`python -m layerprune.track {study}` sends the missing runs."
        )
    return MirrorResult(len(sent), len(runs) - len(sent), error_line)


def _send(
    study: Path,
    tracker: TrackerConfig,
    to: str,
    runs: list[WandbRun],
    state: MirrorState,
    sent: list[WandbRun],
) -> None:
    """Send runs up to the first that fails; append them to `sent` and write the state."""
    if not runs:
        return
    from layerprune.track.media import StudyMedia

    mode = tracker.mode.value
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            progress_bar(f"{study.name} W&B", total=len(runs)) as advance,
            sending(tracker, study) as sender,
        ):
            # A study of failed points alone has nothing to show.
            has_curves = any(run.kind != "point" for run in runs)
            media = StudyMedia(study, Path(folder)) if has_curves else None
            for run in runs:
                before = state.runs.get(run.id)
                previous_id = None
                if before is not None and (before.mode, before.to) == (mode, to):
                    previous_id = before.sent_as
                sent_as = sender.send(run, previous_id, media.of(run) if media else Media())
                state.runs[run.id] = SentRun(run.content, mode, to, sent_as)
                sent.append(run)
                advance(1)
            if mode == TrackerMode.offline.value and sender.synced:
                say(
                    f"{sender.synced} runs of {study.name} were synced before and have changed: "
                    "`wandb sync` would duplicate their rows. "
                    f"`python -m layerprune.track {study} --mode online` adds the missing ones."
                )
    finally:
        if sent:
            state.write()


def recorded_tracker(study: Path) -> TrackerConfig:
    """Return the tracker of a study's newest record; an offline one if it was disabled.

    Raises `UserError` if the study has no record.
    """
    if not study.is_dir():
        raise UserError(f"{study} is not a folder: name the folder of a study, outputs/STUDY.")
    points, _ = Store(study).points()
    if not points:
        raise UserError(f"{study} holds no record that can be read.")
    newest = max(points, key=lambda point: point.provenance.time)
    recorded = newest.config.get("tracker", {})
    mode = TrackerMode(recorded.get("mode", TrackerMode.offline))
    return TrackerConfig(
        mode=TrackerMode.offline if mode is TrackerMode.disabled else mode,
        project=recorded.get("project", TrackerConfig().project),
        entity=recorded.get("entity"),
    )
