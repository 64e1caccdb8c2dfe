"""The command line: compose, check, run jobs, and show the results."""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from layerprune.config import guard
from layerprune.config.compose import conf_dir, typed
from layerprune.config.help import show_help
from layerprune.config.hydra_errors import HYDRA_ERRORS, OVERRIDE_ERRORS, explain
from layerprune.config.overrides import expand_home
from layerprune.errors import (
    PointFailed,
    RunErrors,
    UserError,
    print_anything,
    print_error,
    refusal,
)
from layerprune.runtime import processes
from layerprune.runtime.progress import console, say
from layerprune.runtime.redact import redacted

if TYPE_CHECKING:
    from layerprune.config.schema import Config
    from layerprune.run.job import Job

log = logging.getLogger(__name__)

NEXT_LINE = "\nlayerprune: "


def main() -> None:
    """Run the command line; exit with status 2 for errors that the user can fix."""
    print_anything()
    # Hydra's grammar has no place for it: `model.path=~/llama` would end in the lexer's words.
    sys.argv[1:] = map(expand_home, sys.argv[1:])
    try:
        _main()
        sys.stdout.flush()
    except BrokenPipeError:  # a reader such as `head` has enough; or Python would flush again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception:  # an error of this program: Python's traceback, without secrets
        print(redacted(traceback.format_exc()), file=sys.stderr, end="")
        raise SystemExit(1) from None


def _main() -> None:
    # With this, Hydra raises its exceptions instead of printing them and ending the process.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    # The libraries' own bars would draw over this project's; tqdm reads this when it is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # GNU OpenMP's threads spin while they wait. With the default count, two busy processes beside
    # it made a forward pass on two cores 8 to 20 times slower; with this one about 3 times. On an
    # idle machine no difference was measured.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    # cuBLAS reads it when it is first used, for `runtime.deterministic` (PyTorch's notes on
    # reproducibility): a later job of the same process could not set it any more.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # A log that cannot be written, on a disk that is full, is not worth a traceback for each line.
    logging.raiseExceptions = False
    arguments = sys.argv[1:]
    if "--version" in arguments:
        print(f"layerprune {version('layerprune')}")
        return
    if asked := {"--help", "-h"}.intersection(arguments):
        program = "layerprune" if Path(sys.argv[0]).name == "layerprune" else "python main.py"
        try:
            print(show_help(program, [given for given in arguments if given not in asked]))
        except UserError as error:
            _stop(str(error))
        return
    session = Session()
    run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(session)
    try:
        try:
            run()
        finally:
            session.close()
    except UserError as error:
        _stop(str(error))
    except HYDRA_ERRORS as error:
        _stop(explain(error))
    except OSError as error:
        if error.errno is None or isinstance(error, BrokenPipeError):
            raise
        _stop(f"{refusal(error)} Choose another folder: runtime.outputs=FOLDER.")
    except OVERRIDE_ERRORS as error:
        if not _raised_by_hydra(error):
            raise
        _stop(explain(error))
    except KeyboardInterrupt:
        _stop("Stopped. Rerun the same command to resume.", status=130)
    if lines := session.error_lines():
        _stop(NEXT_LINE.join(lines), status=2 if session.errors.refused else 1)


def _raised_by_hydra(error: BaseException) -> bool:
    """Return True if Hydra raised an error of an override that it does not expect, and no job."""
    package = Path(__file__).parent
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    ours = [file for file in files if package in file.parents and file != Path(guard.__file__)]
    return ours == [Path(__file__)]  # it was called, and called nothing of this project


class Session:
    """One run of the program: its jobs, in whichever processes they run, and their errors.

    It is Hydra's task function, and plans the jobs of a sweep (`config.sweeper`).
    """

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.errors = RunErrors()
        self._lost_why = "The process that was to make them ended early."
        self._progress = ExitStack()
        self._dry = False

    def __reduce__(self) -> tuple[type["Session"], tuple[()]]:
        """A launcher's process has its own session."""
        return Session, ()

    def __call__(self, composed: DictConfig) -> RunErrors:
        """Run one job: alone, or in a process that a launcher started.

        The list form of `prune.fraction` makes it a whole curve.
        """
        if HydraConfig.get().mode is RunMode.RUN:
            errors = self._checked(lambda: self._run_alone(typed(composed)))
            self.on_result(errors)
            return errors
        console.quiet = True  # the process that launched this one prints
        return self._checked(lambda: self._run_jobs([self._build(typed(composed))]))

    def plan_jobs(self, composed: list[DictConfig]) -> list[list[int]]:
        """Return batches of the jobs of a sweep that have something to do.

        Jobs of one model follow each other, those without healing first. One batch has all jobs
        that one shared pass evaluates: those without healing, and those that are healed together.
        Raises `UserError` with a line for each combination that cannot be, before any starts.
        """
        if not composed:
            raise UserError("The sweep is empty: a `glob(...)` or `range(...)` matches nothing.")
        with _loading():
            from layerprune.run.job import JobBuilder
            from layerprune.run.status import announce, study_progress_bar
        builder = JobBuilder()
        refused: dict[str, None] = {}
        for job_config in composed:
            try:
                config = typed(job_config)
                if config.fit.has_budget:
                    raise UserError("fit searches for one model: remove -m.")
                self.jobs.append(builder.build(config))
            except UserError as error:
                refused[str(error)] = None
        if refused:
            self.jobs.clear()  # none starts
            raise UserError(NEXT_LINE.join(refused))
        if any(job.config.dry_run for job in self.jobs):
            self._show_plan(self.jobs)
            raise SystemExit(0)  # or Hydra would make the study's folder
        announce(self.jobs)
        batches: dict[str, dict[object, list[int]]] = {job.model_key: {} for job in self.jobs}
        for healed in (False, True):
            for number, job in enumerate(self.jobs):
                if job.healed is healed and not job.done:
                    batch = job.batch_key or number
                    batches[job.model_key].setdefault(batch, []).append(number)
        plan = [batch for of_model in batches.values() for batch in of_model.values()]
        if plan:
            self._progress.enter_context(study_progress_bar(self.jobs))
        return plan

    def run_batch(self, numbers: Sequence[int], composed: DictConfig) -> RunErrors:
        """Run jobs of a sweep in this process."""
        jobs = [self.jobs[number] for number in numbers]
        return self._checked(lambda: self._run_jobs(jobs), jobs)

    def on_result(self, result: RunErrors) -> None:
        """Add the errors of a job, in whichever process it ran."""
        self.errors.merge(result)

    def on_launcher_failure(self, reason: str) -> None:
        """Keep the reason: points without a record are its consequence."""
        self._lost_why = reason

    def close(self) -> None:
        """End the progress bar; show and mirror the studies that have points."""
        self._progress.close()
        if self._dry or not processes.is_main() or console.quiet:
            return
        for study, config in {job.store.folder: job.config for job in self.jobs}.items():
            if (study / "points").is_dir():
                show_study(study, config)

    def error_lines(self) -> list[str]:
        """Return a line for each refusal and each failed point, and one for all others missing.

        A refusal explains missing points, which then get no further line.
        """
        missing = dict(self.errors.failed)
        lost = set()
        if processes.is_main() and not self._dry and not self.errors.refused:
            for job in self.jobs:
                for key in job.targets:
                    folder = job.store.point_folder(key)
                    if folder not in missing and job.store.read(key) is None:
                        if why := job.store.failure(key):
                            missing[folder] = why
                        else:
                            lost.add(folder)
        lines = [
            *self.errors.refused,
            *(f"{folder.name}: {why}" for folder, why in missing.items()),
        ]
        if lost:
            points = "1 point has" if len(lost) == 1 else f"{len(lost)} points have"
            lines.append(f"{self._lost_why} {points} no record: rerun the same command to resume.")
        return lines

    def _checked(self, work: Callable[[], RunErrors], jobs: Sequence["Job"] = ()) -> RunErrors:
        """Return the errors of `work`, those included that the user can fix.

        A refused job without any point leaves no folder behind.
        """
        logging.captureWarnings(True)
        errors = RunErrors()
        try:
            errors = work()
        except UserError as error:
            errors.refused[str(error)] = []
        except OSError as error:
            if error.errno is None:
                raise
            log.exception("A file could not be used.")
            errors.refused[refusal(error)] = []
        if errors.refused and not any(job.finished_points() for job in jobs or self.jobs):
            _remove_job_folder()
        return errors

    def _run_alone(self, config: "Config") -> RunErrors:
        if config.fit.has_budget:
            return self._fit(config)
        job = self._build(config)
        if config.dry_run:
            self._show_plan([job])
            _remove_job_folder()
            return RunErrors()
        from layerprune.run.status import announce, study_progress_bar

        announce([job])
        with study_progress_bar([job]):
            return self._run_jobs([job])

    def _build(self, config: "Config") -> "Job":
        with _loading():
            from layerprune.run.job import JobBuilder
        self.jobs.append(JobBuilder().build(config))
        return self.jobs[-1]

    def _run_jobs(self, jobs: Sequence["Job"]) -> RunErrors:
        with _loading():
            from layerprune.run.pipeline import run_jobs
        return run_jobs(jobs)

    def _fit(self, config: "Config") -> RunErrors:
        """Search the smallest model within a budget."""
        with _loading():
            from layerprune.run.status import announce
            from layerprune.search.fit import planned_jobs, run
        if config.dry_run:
            self._show_plan(planned_jobs(config))
            _remove_job_folder()
            return RunErrors()

        def on_job(job: "Job") -> None:
            self.jobs.append(job)
            if not job.done:
                announce([job])

        with suppress(PointFailed):  # reported by `error_lines`, like any point without a record
            run(config, on_job)
        return RunErrors()

    def _show_plan(self, jobs: Sequence["Job"]) -> None:
        """Print the status of all points and the cost of those to do; nothing is run."""
        from layerprune.estimate.table import show_costs
        from layerprune.run.status import say_notes, show_status

        self._dry = True
        say_notes(jobs)
        show_status(jobs)
        show_costs(jobs)


def show_study(study: Path, config: "Config") -> None:
    """Write the report of a study's points, show it, and mirror it to Weights & Biases."""
    from layerprune.report import draw
    from layerprune.report.terminal import show
    from layerprune.track import mirror

    try:
        show(draw(study, width=config.figure.width))
    except UserError as error:  # it must not hide why the run ended
        say(f"No report: {error}")
    mirror(study, config.tracker)


def _loading() -> Any:
    """Show a status line while heavy libraries are imported: late, so that `--help` is quick."""
    return console.status("Loading PyTorch and lm-eval ...")


def _remove_job_folder() -> None:
    """Remove what Hydra wrote for the present job, and folders left empty.

    Only files that Hydra names, and only in this project's own layout: `hydra.run.dir` may be any
    folder, with anything in it.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    log_file = folder / "layerprune.log"
    if folder.parent.name != "jobs" or (log_file.is_file() and log_file.stat().st_size > 0):
        return
    for name in ("config", "hydra", "overrides"):
        (folder / ".hydra" / f"{name}.yaml").unlink(missing_ok=True)
    log_file.unlink(missing_ok=True)
    here = Path.cwd()
    for empty in (folder / ".hydra", folder, folder.parent, folder.parent.parent):
        if empty == here or empty in here.parents:
            return
        try:
            empty.rmdir()
        except OSError:  # it is not empty, so its parents stay, too
            return


def _stop(message: str, status: int = 2) -> NoReturn:
    print_error(message)
    raise SystemExit(status)
