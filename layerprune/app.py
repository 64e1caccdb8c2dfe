"""The command line: compose, check, run the pipeline, show what came out."""

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from layerprune import processes
from layerprune.config import fence
from layerprune.config.compose import conf_dir, explain, job_key, typed
from layerprune.config.stumbles import STUMBLES, unreadable
from layerprune.errors import PointFailed, UserError, refusal
from layerprune.grid import Grid
from layerprune.progress import console, say
from layerprune.redact import redacted

if TYPE_CHECKING:
    from layerprune.config.schema import Config
    from layerprune.job import Job
    from layerprune.todo import Outcome

log = logging.getLogger(__name__)

NEXT_LINE = "\nlayerprune: "


class _Run:
    """What this run of the program knows of its jobs, whichever processes they run in."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        """All of them, by `job_key`."""
        self.begun: set[str] = set()
        self.failed: dict[Path, str] = {}
        """Why points came to nothing, by their folders."""
        self.refused: dict[str, None] = {}
        """What the user can mend, each line once."""
        self.watching = ExitStack()
        self.dry = False

    def hear(self, outcome: "Outcome") -> None:
        """Take in what came of a job. Lines only: an exception holds on to a whole model."""
        self.failed |= outcome.failed
        self.refused |= dict.fromkeys(outcome.refused)


_run = _Run()


def main() -> None:
    """Run what the command line asks for; exit status 2 for what the user can mend."""
    try:
        _main()
    except Exception:  # an error of this program: as Python says it, but without secrets
        print(redacted(traceback.format_exc()), file=sys.stderr, end="")
        raise SystemExit(1) from None


def _main() -> None:
    global _run
    _run = _Run()
    # With this, Hydra hands its exceptions on instead of printing them and ending the process.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    # The libraries' own bars would draw over this project's; tqdm reads this when it is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # GNU OpenMP's threads spin while they wait. With the default count, two busy processes beside
    # it made a forward pass on two cores 8 to 20 times slower; with this one about 3 times. On an
    # idle machine no difference was measured.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    # A log that cannot be written, on a disk that is full, is not worth a traceback for each line.
    logging.raiseExceptions = False
    Grid.look, Grid.hear = _look, _run.hear
    run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_job)
    try:
        try:
            run()
        finally:
            _run.watching.close()
            _show()
    except UserError as error:
        _stop(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _stop(explain(error))
    except OSError as error:
        if error.errno is None:
            raise
        _stop(f"{refusal(error)} Choose a place with runtime.outputs=FOLDER.")
    except STUMBLES as error:
        if not _in_hydra(error):
            raise
        _stop(unreadable(error))
    except KeyboardInterrupt:
        _stop("Stopped. The same command goes on where it was.", status=130)
    if lines := [*_run.refused, *_lost()]:
        _stop(NEXT_LINE.join(lines), status=2 if _run.refused else 1)


def _in_hydra(error: BaseException) -> bool:
    """Whether an error is Hydra's own, of an override that it does not expect, and no job's."""
    own = Path(__file__).parent
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    ours = [file for file in files if own in file.parents and file != Path(fence.__file__)]
    return ours == [Path(__file__)]  # it was called, and called nothing of this project


def _look(sweep: list[DictConfig]) -> list[int]:
    """Which jobs of a sweep have something to do, those of one model together, un-healed first.

    Raises `UserError` with a line for each combination that cannot be, before any of them starts.
    """
    if not sweep:
        raise UserError(
            "The sweep is empty: a `glob(...)` or a `range(...)` in it matches nothing."
        )
    configs = []
    refused: dict[str, None] = {}
    for each in sweep:
        try:
            configs.append(typed(each))
        except UserError as error:
            refused[str(error)] = None
    with console.status("Loading PyTorch and lm-eval ..."):
        from layerprune.job import prepare_all  # only now: `--help` is quick
        from layerprune.study import watched
    if any(config.fit.asked for config in configs):
        raise UserError("fit looks for one model: leave -m out.")
    jobs, more = prepare_all(configs)
    refused |= dict.fromkeys(more)
    if refused:
        raise UserError(NEXT_LINE.join(refused))
    _run.jobs = dict(zip(map(job_key, sweep), jobs, strict=True))
    if any(job.config.dry_run for job in jobs):
        _show_grid(jobs)
        raise SystemExit(0)  # or Hydra would make the study's folder
    open_ = [number for number, job in enumerate(jobs) if not job.done]
    _announce(jobs)
    if open_:
        _run.watching.enter_context(watched(jobs[0].config.study, jobs))
    models = list(dict.fromkeys(job.model_key for job in jobs))
    return sorted(open_, key=lambda at: (models.index(jobs[at].model_key), jobs[at].healed))


def _job(composed: DictConfig) -> "Outcome":
    """One Hydra job: the list form of `prune.fraction` makes it a whole curve.

    In the process that looked at all jobs, un-healed ones of one model are done with the first of
    them. Returns what came to nothing.
    """
    logging.captureWarnings(True)
    with console.status("Loading PyTorch and lm-eval ..."):
        from layerprune import pipeline
        from layerprune.job import Jobs
        from layerprune.study import watched
        from layerprune.todo import Outcome
    key = job_key(composed)
    outcome = Outcome()
    try:
        if key in _run.begun:
            return outcome
        if key in _run.jobs:
            outcome = pipeline.make(_with_siblings(key))
        elif (config := typed(composed)).fit.asked:
            _fit(config)
        else:
            job = _run.jobs[key] = Jobs().prepare(config)
            alone = HydraConfig.get().mode is RunMode.RUN
            if job.config.dry_run:
                _show_grid([job])
                _forget(Path(HydraConfig.get().runtime.output_dir))
            elif alone:
                _announce([job])
                with watched(job.config.study, [job]):
                    outcome = pipeline.make([job])
            else:  # a launcher's own process: the one that launched it talks to people
                console.quiet = True
                outcome = pipeline.make([job])
    except UserError as error:
        outcome.refused[str(error)] = []
    except OSError as error:
        if error.errno is None:
            raise
        log.exception("A file could not be used.")
        outcome.refused[refusal(error)] = []
    if outcome.refused and not _made(key):
        _forget(Path(HydraConfig.get().runtime.output_dir))
    _run.hear(outcome)
    return outcome


def _made(key: str) -> bool:
    """Whether a job has any point."""
    job = _run.jobs.get(key)
    return job is not None and any(map(job.store.read, job.targets))


def _fit(config: "Config") -> None:
    """Look for the smallest model within a budget; its points are shown as those of any job."""
    from layerprune.fitting.run import planned, run

    if config.dry_run:
        _show_grid(planned(config))
        _forget(Path(HydraConfig.get().runtime.output_dir))
        return

    def hear(job: "Job") -> None:
        _run.jobs[f"fit {len(_run.jobs)}"] = job
        if not job.done:
            _announce([job])

    with suppress(PointFailed):  # told of below, like any point without a record
        run(config, hear)


def _with_siblings(key: str) -> "list[Job]":
    """A job, and those that can be done with it in one go."""
    job = _run.jobs[key]
    if job.healed:
        keys = [key]
    else:
        keys = [
            other
            for other, each in _run.jobs.items()
            if not each.healed and each.model_key == job.model_key
        ]
    _run.begun.update(keys)
    return [_run.jobs[each] for each in keys]


def _announce(jobs: "Sequence[Job]") -> None:
    """What is there already, and what will be made."""
    from layerprune.study import shares

    for note in dict.fromkeys(note for job in jobs for note in job.notes):
        say(note)
    for share in shares(jobs):
        all_ = share.done + share.todo
        points = "point" if all_ == 1 else "points"
        say(f"{share.title}: {all_} {points}, {share.done} of them are there already.")


def _show_grid(jobs: "Sequence[Job]") -> None:
    """Print how far all points are, and what is left; nothing is made."""
    from layerprune.estimate.table import show_costs
    from layerprune.study import show_grid

    _run.dry = True
    for note in dict.fromkeys(note for job in jobs for note in job.notes):
        say(note)
    show_grid(jobs)
    show_costs(jobs)


def _lost() -> list[str]:
    """A line for each point that was asked for and has no record.

    Where something was refused, that is why others were not made.
    """
    lost = dict(_run.failed)
    if processes.first() and not _run.dry and not _run.refused:
        for job in _run.jobs.values():
            for key in job.targets:
                folder = job.store.point_folder(key)
                if folder not in lost and job.store.read(key) is None:
                    lost[folder] = job.store.failure(key) or (
                        "no record. The process that was to make it ended early: "
                        "the same command goes on where it was."
                    )
    return [f"{folder.name}: {why}" for folder, why in lost.items()]


def _show() -> None:
    """The report of each study that has points, and its mirror, whatever became of the others."""
    if _run.dry or not processes.first() or console.quiet:
        return
    studies = {job.store.folder: job.config.tracker for job in _run.jobs.values()}
    for study, tracker in studies.items():
        if not (study / "points").is_dir():
            continue
        from layerprune.report import draw, show
        from layerprune.track import mirror

        try:
            show(draw(study))
        except UserError as error:  # it must not hide why the run ended
            say(f"No report: {error}")
        mirror(study, tracker)


def _forget(job: Path) -> None:
    """Remove what Hydra has just written for a job that was refused, and folders left empty.

    Only files that Hydra names, and only where this project's own layout holds: `hydra.run.dir` may
    be any folder, with anything in it.
    """
    log_file = job / "layerprune.log"
    if job.parent.name != "jobs" or (log_file.is_file() and log_file.stat().st_size > 0):
        return
    for name in ("config", "hydra", "overrides"):
        (job / ".hydra" / f"{name}.yaml").unlink(missing_ok=True)
    log_file.unlink(missing_ok=True)
    here = Path.cwd()
    for folder in (job / ".hydra", job, job.parent, job.parent.parent):
        if folder == here or folder in here.parents:
            return
        try:
            folder.rmdir()
        except OSError:  # it holds something: it stays, and so do those above it
            return


def _stop(message: str, status: int = 2) -> NoReturn:
    print(redacted(f"layerprune: {message}"), file=sys.stderr)
    raise SystemExit(status)
