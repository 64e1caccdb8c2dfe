"""The command line: compose, check, run the pipeline, show what came out."""

import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from layerprune import processes
from layerprune.config.compose import conf_dir, explain, register, typed
from layerprune.config.schema import TrackerConfig
from layerprune.errors import PointFailed, UserError
from layerprune.progress import console, say

log = logging.getLogger(__name__)

_studies: dict[Path, None] = {}
"""Studies that this process has worked on, in order; their reports are drawn at the end."""

_trackers: dict[Path, TrackerConfig] = {}
"""Where the studies are mirrored to: what the last job of each asked for."""

_refused: list[UserError] = []
"""Jobs that could not begin. Raised through Hydra, each would bring a line of Hydra's own."""

_failed: list[str] = []
"""Points that came to nothing; the others of their jobs are there."""


def main() -> None:
    """Run what the command line asks for; exit status 2 for what the user can mend."""
    # With this, Hydra hands its exceptions on instead of printing them and ending the process.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    # The libraries' own bars would draw over this project's; tqdm reads this when it is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # GNU OpenMP's threads spin while they wait. With the default count, two busy processes beside
    # it made a forward pass on two cores 8 to 20 times slower; with this one about 3 times. On an
    # idle machine no difference was measured.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    register()
    run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_job)
    try:
        try:
            run()
        finally:
            _show_reports()
            _mirror()
    except (HydraException, OmegaConfBaseException) as error:
        _stop(explain(error))
    except OSError as error:
        if error.filename is None:
            raise
        _stop(f"{error.filename}: {error.strerror}. Choose a place with runtime.outputs=FOLDER.")
    except KeyboardInterrupt:
        _stop("Stopped. The same command goes on where it was.", status=130)
    if _refused:
        _stop("\nlayerprune: ".join(dict.fromkeys(map(str, _refused))))
    if _failed:
        _stop("\nlayerprune: ".join(dict.fromkeys(_failed)), status=1)


def _job(composed: DictConfig) -> None:
    """One Hydra job: the list form of `prune.fraction` makes it a whole curve."""
    logging.captureWarnings(True)
    study = Path(composed.runtime.outputs) / composed.study
    try:
        config = typed(composed)
        _trackers[study] = config.tracker
        with console.status("Loading PyTorch and lm-eval ..."):
            from layerprune import pipeline  # only now: `--help` is quick
        pipeline.run(config)
    except PointFailed as error:
        _failed.append(str(error))  # not itself: it holds on to what the job had in memory
    except UserError as error:
        _refused.append(error)
        _forget(Path(HydraConfig.get().runtime.output_dir))
    except OSError as error:
        if error.filename is None:
            raise
        log.exception("A file could not be used.")
        _refused.append(UserError(f"{error.filename}: {error.strerror}."))
    finally:
        if (study / "points").is_dir() and processes.first():
            _studies[study] = None


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


def _show_reports() -> None:
    if not _studies:
        return
    from layerprune.report import draw, show

    for study in _studies:
        try:
            show(draw(study))
        except UserError as error:  # it must not hide why the run ended
            say(f"No report: {error}")


def _mirror() -> None:
    """Bring what is recorded to Weights & Biases, points of earlier runs and other jobs too."""
    for study in _studies:
        if study in _trackers:
            from layerprune.track import mirror

            mirror(study, _trackers[study])


def _stop(message: str, status: int = 2) -> NoReturn:
    print(f"layerprune: {message}", file=sys.stderr)
    raise SystemExit(status)
