"""Hydra's own sweep over a grid, which looks at all jobs before the first one starts."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from layerprune.config.stumbles import STUMBLES, unreadable
from layerprune.errors import UserError
from layerprune.files import write_text
from layerprune.progress import say
from layerprune.redact import redacted

Plugins.instance()  # looks for plugins, which loads the module below anew: with another class

from hydra._internal.core_plugins.basic_launcher import BasicLauncher  # noqa: E402
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # noqa: E402


class Grid(BasicSweeper):
    """The jobs of a grid, those that have something to do, in a good order.

    It takes what Hydra's basic sweeper takes, and any launcher runs the jobs.
    """

    look: ClassVar[Callable[[list[DictConfig]], list[int]]]
    """Given the jobs' configurations, the numbers of those to launch, in order; or it raises."""
    hear: ClassVar[Callable[[Any], None]]
    """Takes what a job returned, in whichever process it ran."""

    def split_arguments(  # type: ignore[override] # a static method of Hydra's, called on the sweep
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Batches of jobs, each as its overrides."""
        (grid,) = BasicSweeper.split_arguments(overrides, None)
        order = Grid.look(list(self._composed(grid)))
        jobs = [grid[number] for number in order]
        return list(self.split_overrides_to_chunks(jobs, max_batch_size)) if jobs else []

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """All have been composed a moment ago."""

    def sweep(self, arguments: list[str]) -> Any:
        """Launch the jobs, and take what each of them returns."""
        assert self.config is not None
        assert self.launcher is not None
        launcher: Any = self.launcher
        if isinstance(launcher, BasicLauncher):
            launcher = _OneByOne(launcher)
        details = Path(self.config.hydra.sweep.dir) / "launcher.log"
        self.launcher = _Heard(launcher, details)  # type: ignore[assignment] # as one
        return super().sweep(arguments)

    def _composed(self, grid: list[list[str]]) -> Iterator[DictConfig]:
        """The configuration of each job, without Hydra's own.

        Hydra takes an eighth of a second to compose one. Jobs that choose the same files differ in
        values alone: these are set in copies of what was composed once.
        """
        assert self.hydra_context is not None
        assert self.config is not None
        loader = self.hydra_context.config_loader
        parser = OverridesParser.create()
        is_group = cache(lambda key: bool(loader.get_group_options(key)))
        known: dict[tuple[str, ...], DictConfig] = {}
        for overrides in grid:
            values = {
                given: parsed
                for given, parsed in zip(overrides, parser.parse_overrides(overrides), strict=True)
                if _sets_value(parsed) and not is_group(parsed.key_or_group)
            }
            chosen = tuple(given for given in overrides if given not in values)
            if chosen not in known:
                known[chosen] = loader.load_sweep_config(self.config, list(chosen))
                with open_dict(known[chosen]):
                    del known[chosen]["hydra"]
            job = deepcopy(known[chosen])
            for parsed in values.values():
                try:
                    OmegaConf.update(job, parsed.key_or_group, parsed.value(), merge=True)
                except OmegaConfBaseException:
                    raise
                except STUMBLES as error:
                    raise UserError(unreadable(error)) from error
            yield job


class _Heard:
    """A launcher whose jobs are heard of, and whose failure is said in a line.

    What it did not come to is told of by the points that have no record.
    """

    def __init__(self, launcher: Any, details: Path) -> None:
        self._launcher = launcher
        self._details = details

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """What each job returned; nothing of any where the launcher failed."""
        self._details.unlink(missing_ok=True)
        try:
            ended: Sequence[JobReturn] = self._launcher.launch(job_overrides, initial_job_idx)
            _hear(ended)
        except (UserError, HydraException, OmegaConfBaseException):
            raise
        except Exception as error:  # each launcher has errors of its own
            reason = " ".join(str(error).split())[:200].rstrip(".: ")
            where = ""
            with suppress(OSError):  # where a disk is full, jobs fail too
                write_text(self._details, redacted(traceback.format_exc()))
                where = f" {self._details} says more."
            say(f"The launcher failed: {type(error).__name__}: {reason}.{where}")
            return []
        return ended


def _hear(ended: Sequence[JobReturn]) -> None:
    """Take what each job returned; then raise what the first of those raised that did not."""
    raised: list[Exception] = []
    for job in ended:
        try:
            Grid.hear(job.return_value)
        except Exception as error:
            raised.append(error)
    if raised:
        raise raised[0]


class _OneByOne:
    """Hydra's launcher of jobs in this process, without the configurations of those that ended.

    It would keep two copies of each, a quarter of a megabyte a job, until the last one ends.
    """

    def __init__(self, launcher: BasicLauncher) -> None:
        self._launcher = launcher

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        """What each job returned, or raises when that is looked at."""
        ended: list[JobReturn] = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            ended += self._launcher.launch([overrides], number)
            ended[-1].cfg = ended[-1].hydra_cfg = None
        return ended


def _sets_value(override: Override) -> bool:
    """Whether it may set a value of a composed configuration, and does no more."""
    return (
        override.type is OverrideType.CHANGE
        and override.package is None
        and not override.key_or_group.startswith("hydra.")
    )


PLUGIN = "hydra_plugins.layerprune.Grid"
"""Hydra takes a plugin for one by such a name, and looks for them in packages of that name: this
project has one, which needs no package of its own."""


def register() -> None:
    """Make `hydra/sweeper=grid` known."""
    Plugins.instance().class_name_to_class[PLUGIN] = Grid
    node = {"_target_": PLUGIN, "max_batch_size": None, "params": None}
    ConfigStore.instance().store(
        group="hydra/sweeper", name="grid", node=node, provider="layerprune"
    )
