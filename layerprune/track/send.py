"""Send runs to Weights & Biases: to its server, or to folders for `wandb sync`.

This is the only file that imports wandb.
"""

import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from layerprune.config.schema import TrackerConfig, TrackerMode
from layerprune.record.point import content_hash
from layerprune.track.runs import Media, WandbRun

TIMEOUTS = {"init_timeout": 12.0, "finish_timeout": 60.0}
"""Seconds for the start of a run, and for its upload at the end; W&B has 90 and no limit.
`WANDB_INIT_TIMEOUT` and `WANDB_FINISH_TIMEOUT` take precedence."""

ROWS = "rows"
"""Key of a run's summary for the hashes of the parts that were sent."""


class NotSentError(Exception):
    """A run that W&B did not accept."""


@contextmanager
def sending(tracker: TrackerConfig, study: Path) -> Iterator["Sender"]:
    """Yield a sender of runs, and stop wandb's own process after the block."""
    # wandb would report its own errors to its makers.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    logging.getLogger("wandb").propagate = False  # 20 lines per run
    try:
        yield Sender(tracker, study, wandb)
    finally:
        with suppress(SystemExit):  # wandb would exit if its process failed
            wandb.teardown()


class Sender:
    """Sends runs to W&B. Any exception means that a run was not sent."""

    def __init__(self, tracker: TrackerConfig, study: Path, wandb: Any) -> None:
        self._wandb = wandb
        self._tracker = tracker
        self._study = study
        self._folder = study / "wandb"
        self._online = tracker.mode is TrackerMode.online
        self.synced = 0
        """Number of rewritten offline runs whose earlier version `wandb sync` has uploaded."""
        wandb.setup(settings=wandb.Settings(**self._settings()))
        # Without a key, `init` would ask for one wherever there is a terminal.
        if self._online and not wandb.login(prompt=False, verify=False):
            raise NotSentError("there is no API key: run `wandb login`")

    def send(self, run: WandbRun, previous_id: str | None, media: Media) -> str:
        """Send a run and return its id there; `previous_id` is its id if it was sent before."""
        if self._online:
            return self._send_online(run, previous_id, media)
        # Offline runs cannot be resumed: a new folder replaces the old one.
        with self._opened(run, run.id) as wandb_run:
            self._log(wandb_run, run, range(len(run.parts)), media)
        return run.id

    def _send_online(self, run: WandbRun, previous_id: str | None, media: Media) -> str:
        """Add the missing rows, or start a run with another id if the server has other rows.

        W&B cannot delete a row of a history. Without `resume`, wandb-core 0.31 appends rows that
        are numbered from 0 again, so a curve would be there twice; with `resume="allow"` it
        continues the numbering. So rows are only added, which is enough for a new point of a curve.
        If a row has changed, the run gets another id, a hash of its rows, and the old run, which
        was created here, is deleted. The run's summary lists its rows, since `mirrored.json` may be
        lost.
        """
        old: list[tuple[str, str]] = []
        replacement_id = run.id + content_hash(run.part_hashes)
        for run_id in dict.fromkeys((previous_id or run.id, replacement_id)):
            try:
                with self._opened(run, run_id, resume="allow") as wandb_run:
                    missing = _missing(wandb_run, run)
                    if missing is not None:
                        self._log(wandb_run, run, missing, media)
            except self._wandb.Error as error:
                if "deleted" not in str(error):  # the id of a deleted run cannot be used again
                    raise
                continue
            if missing is not None:
                for superseded in old:
                    self._delete(*superseded)
                return run_id
            old.append((run_id, wandb_run.path))
        raise NotSentError(f"run {run.id} and its replacement have other content")

    @contextmanager
    def _opened(self, run: WandbRun, run_id: str, resume: Any = None) -> Iterator[Any]:
        """Open a run and finish it after the block; its folder replaces others of the same id.

        If that fails, its folder is removed and the old ones stay.
        """
        folder, before = self._folder, self._folders(run_id)
        kind = "run" if self._online else "offline-run"
        # Folders are named by the second: avoid writing into an existing one.
        while f"{kind}-{time.strftime('%Y%m%d_%H%M%S')}-{run_id}" in before:
            time.sleep(0.05)
        complete = False
        try:
            wandb_run = self._wandb.init(
                project=self._tracker.project,
                entity=self._tracker.entity,
                dir=self._study,
                mode=self._tracker.mode.value,
                id=run_id,
                name=run.name,
                group=run.group,
                job_type=run.kind,
                tags=run.tags,
                config=run.config,
                resume=resume,
                reinit="create_new",
                settings=self._wandb.Settings(**self._settings()),
            )
            exit_code = 1
            try:
                for name, x_axis in run.axes:
                    # Without `step_sync=False`, rows without a fraction would get the last one.
                    wandb_run.define_metric(name, step_metric=x_axis, step_sync=False)
                yield wandb_run
                exit_code = run.exit_code
            finally:
                wandb_run.finish(exit_code=exit_code)
            self._check_uploaded(wandb_run)
            complete = True
        finally:
            after = self._folders(run_id)
            synced = (file for name in before for file in (folder / name).glob("*.synced"))
            self.synced += complete and any(synced)
            for name in before & after if complete else after - before:
                shutil.rmtree(folder / name, ignore_errors=True)

    def _log(self, wandb_run: Any, run: WandbRun, parts: Iterable[int], media: Media) -> None:
        for part in parts:
            for row in run.parts[part]:
                wandb_run.log(row)
        shown: dict[str, Any] = {
            name: self._wandb.Image(str(path)) for name, path in media.pictures.items()
        }
        if media.rows:
            columns = list(dict.fromkeys(name for row in media.rows for name in row))
            data = [[row.get(name) for name in columns] for row in media.rows]
            shown[media.table] = self._wandb.Table(columns=columns, data=data)
        if shown:
            wandb_run.log(shown)
        wandb_run.summary.update({**run.summary, ROWS: " ".join(run.part_hashes)})

    def _check_uploaded(self, wandb_run: Any) -> None:
        """Raise `NotSentError` if wandb-core's log says that it gave up on the history."""
        path = Path(wandb_run.settings.log_internal)
        if self._online and "filestream: fatal error" in path.read_text(errors="replace"):
            raise NotSentError(f"the server did not accept the history of run {wandb_run.id}")

    def _delete(self, run_id: str, path: str) -> None:
        self._wandb.Api(timeout=int(TIMEOUTS["init_timeout"])).run(path).delete()
        for name in self._folders(run_id):
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def _folders(self, run_id: str) -> set[str]:
        return {name for name in run_folders(self._folder) if name.endswith(f"-{run_id}")}

    def _settings(self) -> dict[str, Any]:
        """Return settings without data about this machine, output of wandb, or endless waiting."""
        timeouts = {
            name: value
            for name, value in TIMEOUTS.items()
            if f"WANDB_{name.upper()}" not in os.environ
        }
        return {
            "mode": self._tracker.mode.value,
            "silent": True,
            "console": "off",
            "disable_git": True,
            "disable_code": True,
            "save_code": False,
            "label_disable": True,
            "symlink": False,
            "use_dot_wandb": False,
            "finish_timeout_raises": True,
            # Tables would be stored in the user's home otherwise.
            "allow_offline_artifacts": False,
            "x_disable_meta": True,
            "x_disable_stats": True,
            "x_disable_machine_info": True,
            "x_save_requirements": False,
            **timeouts,
        }


def _missing(wandb_run: Any, run: WandbRun) -> list[int] | None:
    """Return the numbers of the parts that were not sent; None if the run has other rows."""
    if not wandb_run.resumed:
        return list(range(len(run.parts)))
    hashes = run.part_hashes
    summary = wandb_run.summary.get(ROWS)
    sent = summary.split() if isinstance(summary, str) else []
    if set(sent) - set(hashes) or (not sent and wandb_run.starting_step > 0):
        return None
    return [number for number, part in enumerate(hashes) if part not in sent]


def run_folders(folder: Path) -> list[str]:
    """Return the names of the runs' folders in a `wandb` folder, oldest first."""
    names = (path.name for path in folder.glob("*run-*"))
    return sorted(name for name in names if name.startswith(("offline-run-", "run-")))
