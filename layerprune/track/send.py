"""Hands runs to Weights & Biases: to its server, or to folders for `wandb sync`.

The only file that imports wandb.
"""

import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from layerprune.config.schema import TrackerConfig, TrackerMode
from layerprune.record.point import content_hash
from layerprune.track.runs import Run
from layerprune.track.state import State

TIMEOUTS = {"init_timeout": 12.0, "finish_timeout": 60.0}
"""Seconds that a run may take to begin, and to be uploaded at its end. W&B's own are 90, and none.
`WANDB_INIT_TIMEOUT` and `WANDB_FINISH_TIMEOUT` are stronger."""

ROWS = "rows"
"""Of a run's summary: the marks of the parts that are there."""


class NotSentError(Exception):
    """W&B did not take a run."""


@contextmanager
def sending(tracker: TrackerConfig, study: Path) -> Iterator["Sender"]:
    """What sends runs, with wandb's own process, which ends with the block."""
    # wandb would send its own errors home.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    logging.getLogger("wandb").propagate = False  # twenty lines a run
    try:
        yield Sender(tracker, study, wandb)
    finally:
        with suppress(SystemExit):  # wandb would end the program if its process ended badly
            wandb.teardown()


class Sender:
    """W&B, while runs are sent to it. Everything it raises means that a run was not sent."""

    def __init__(self, tracker: TrackerConfig, study: Path, wandb: Any) -> None:
        self._wandb = wandb
        self._tracker = tracker
        self._study = study
        self._state = State(study / "wandb")
        self._online = tracker.mode is TrackerMode.online
        self.synced = 0
        """Runs written anew of which `wandb sync` has uploaded an earlier form."""
        wandb.setup(settings=wandb.Settings(**self._settings()))
        # Without a key, `init` would ask for one wherever there is a terminal.
        if self._online and not wandb.login(prompt=False, verify=False):
            raise NotSentError("there is no key: `wandb login` asks for one")

    def send(self, run: Run, known: str | None, pictures: Mapping[str, Path]) -> str:
        """Send a whole run; returns its id there. `known` is the one that it has from before."""
        if self._online:
            return self._send_online(run, known, pictures)
        # Offline nothing can be resumed: it is written anew, and replaces what was there.
        with self._begun(run, run.id) as there:
            self._fill(there, run, range(len(run.parts)), pictures)
        return run.id

    def _send_online(self, run: Run, known: str | None, pictures: Mapping[str, Path]) -> str:
        """Add what is missing, or begin again under another id if something else is there.

        W&B never takes back a row of a history, and there is no call that deletes one. Without
        `resume`, wandb-core 0.31 asks how many rows a run of that id has and puts its own behind
        them, numbered from 0 again: the curve would stand there twice. With `resume="allow"` it
        counts on from the last. So rows are only ever added, which is all that a curve needs that
        gets a point more. If a row has changed (a point was made again), the run gets another id,
        which follows from its rows, and the old run, which was made here, is deleted. The run's
        summary says which rows it has, since `mirrored.json` may be lost.
        """
        old: list[tuple[str, str]] = []
        for run_id in dict.fromkeys((known or run.id, run.id + content_hash(run.marks))):
            try:
                with self._begun(run, run_id, resume="allow") as there:
                    missing = _missing(there, run)
                    if missing is not None:
                        self._fill(there, run, missing, pictures)
            except self._wandb.Error as error:
                if "deleted" not in str(error):  # such an id is never given again
                    raise
                continue
            if missing is not None:
                for superseded in old:
                    self._delete(*superseded)
                return run_id
            old.append((run_id, there.path))
        raise NotSentError(f"run {run.id} has other content, and so has the one in its place")

    @contextmanager
    def _begun(self, run: Run, run_id: str, resume: Any = None) -> Iterator[Any]:
        """A run that is open, finished whatever happens, and the only folder of its id at the end.

        If it comes to nothing, its folder goes and the old one stays.
        """
        before = self._folders(run_id)
        kind = "run" if self._online else "offline-run"
        # The folder's name has the second: another one would be written into.
        while f"{kind}-{time.strftime('%Y%m%d_%H%M%S')}-{run_id}" in before:
            time.sleep(0.05)
        whole = False
        try:
            there = self._wandb.init(
                project=self._tracker.project,
                entity=self._tracker.entity,
                dir=self._study,
                mode=self._tracker.mode.value,
                id=run_id,
                name=run.name,
                group=run.curve,
                job_type=run.kind,
                tags=run.tags,
                config=run.config,
                resume=resume,
                reinit="create_new",
                settings=self._wandb.Settings(**self._settings()),
            )
            exit_code = 1
            try:
                for name, against in run.axes:
                    # Without `step_sync=False`, rows without a fraction would get the last one.
                    there.define_metric(name, step_metric=against, step_sync=False)
                yield there
                exit_code = run.exit_code
            finally:
                there.finish(exit_code=exit_code)
            self._check_uploaded(there)
            whole = True
        finally:
            after = self._folders(run_id)
            if whole and any(any((self._state.folder / name).glob("*.synced")) for name in before):
                self.synced += 1
            for name in before & after if whole else after - before:
                shutil.rmtree(self._state.folder / name, ignore_errors=True)

    def _fill(self, there: Any, run: Run, parts: Any, pictures: Mapping[str, Path]) -> None:
        for part in parts:
            for row in run.parts[part]:
                there.log(row)
        media: dict[str, Any] = {
            name: self._wandb.Image(str(path)) for name, path in pictures.items()
        }
        if run.kind == "curve":
            media["curve"] = self._table(run)
        if media:
            there.log(media)
        there.summary.update({**run.summary, ROWS: " ".join(run.marks)})

    def _table(self, run: Run) -> Any:
        rows = [row for part in run.parts for row in part]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        return self._wandb.Table(
            columns=columns, data=[[row.get(name) for name in columns] for row in rows]
        )

    def _check_uploaded(self, there: Any) -> None:
        """Raise if wandb-core gave up on the history: it says so in its log alone."""
        path = Path(there.settings.log_internal)
        if self._online and "filestream: fatal error" in path.read_text(errors="replace"):
            raise NotSentError(f"the server did not take the history of run {there.id}")

    def _delete(self, run_id: str, path: str) -> None:
        self._wandb.Api(timeout=int(TIMEOUTS["init_timeout"])).run(path).delete()
        for name in self._folders(run_id):
            shutil.rmtree(self._state.folder / name, ignore_errors=True)

    def _folders(self, run_id: str) -> set[str]:
        return {name for name in self._state.folders() if name.endswith(f"-{run_id}")}

    def _settings(self) -> dict[str, Any]:
        """Nothing of this machine, no output of its own, no waiting for ever."""
        given = {
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
            # Else a table lies in the user's home, where `wandb sync` looks for it.
            "allow_offline_artifacts": False,
            "x_disable_meta": True,
            "x_disable_stats": True,
            "x_disable_machine_info": True,
            "x_save_requirements": False,
            **given,
        }


def _missing(there: Any, run: Run) -> list[int] | None:
    """Which parts are not there yet; None if the run holds anything else."""
    if not there.resumed:
        return list(range(len(run.parts)))
    marks = run.marks
    said = there.summary.get(ROWS)
    has = said.split() if isinstance(said, str) else []
    if set(has) - set(marks) or (not has and there.starting_step > 0):
        return None
    return [at for at, mark in enumerate(marks) if mark not in has]
