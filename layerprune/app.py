"""The only door to Hydra: compose, check, run the pipeline, show what came out."""

import contextlib
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from layerprune.config.compose import conf_dir, explain, register, typed
from layerprune.errors import UserError
from layerprune.progress import console, say

log = logging.getLogger(__name__)

_studies: dict[Path, None] = {}
"""Studies that this process has worked on, in order; their reports are drawn at the end."""

_refused: list[UserError] = []
"""Jobs that could not begin. Raised through Hydra, each would bring a line of Hydra's own."""


def main() -> None:
    """Run what the command line asks for; exit status 2 for what the user can mend."""
    # With this, Hydra hands its exceptions on instead of printing them and ending the process.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    # The libraries' own bars would draw over this project's; tqdm reads this when it is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # GNU OpenMP's threads spin while they wait. With the default count a busy neighbour on one of
    # two cores made a forward pass 20 times slower; with this one 3 times, and none is lost alone.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    register()
    run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_job)
    try:
        try:
            run()
        finally:
            _show_reports()
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


def _job(composed: DictConfig) -> None:
    """One Hydra job: the list form of `prune.fraction` makes it a whole curve."""
    config = typed(composed)
    logging.captureWarnings(True)
    with console.status("Loading PyTorch and lm-eval ..."):
        from layerprune import pipeline  # only now: `--help` is quick

    study = Path(config.runtime.outputs) / config.study
    try:
        pipeline.run(config)
    except UserError as error:
        _refused.append(error)
        _forget(Path(HydraConfig.get().runtime.output_dir), study)
    except OSError as error:
        if error.filename is None:
            raise
        log.exception("A file could not be used.")
        _refused.append(UserError(f"{error.filename}: {error.strerror}."))
    finally:
        if (study / "points").is_dir():
            _studies[study] = None


def _forget(job: Path, study: Path) -> None:
    """Remove the folder of a job that was refused, and what it leaves empty."""
    shutil.rmtree(job, ignore_errors=True)
    for folder in (job.parent, study):
        with contextlib.suppress(OSError):  # it holds something: it stays
            folder.rmdir()


def _show_reports() -> None:
    if not _studies:
        return
    from layerprune.report import draw, show

    for study in _studies:
        try:
            show(draw(study))
        except UserError as error:  # it must not hide why the run ended
            say(f"No report: {error}")


def _stop(message: str, status: int = 2) -> NoReturn:
    print(f"layerprune: {message}", file=sys.stderr)
    raise SystemExit(status)
