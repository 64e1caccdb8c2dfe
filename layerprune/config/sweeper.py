"""A sweep of Hydra's that checks all jobs before the first one starts."""

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from layerprune.config.hydra_errors import OVERRIDE_ERRORS, explain
from layerprune.config.overrides import expand
from layerprune.config.registry import REGISTRIES
from layerprune.errors import UserError
from layerprune.runtime.atomic_files import write_text
from layerprune.runtime.redact import redacted

Plugins.instance()  # scanning for plugins loads the modules below again, with other classes

from hydra._internal.core_plugins.basic_launcher import BasicLauncher  # noqa: E402
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # noqa: E402


class PrecheckedSweeper(BasicSweeper):
    """Sweep a grid as Hydra's basic sweeper does, but plan all jobs before any starts.

    Without a launcher of other processes it runs the jobs itself, batch by batch. The task function
    is a `cli.Session`, which plans the jobs, runs batches and receives their results.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        """Keep the task, and set up the launcher."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.task = task_function

    def sweep(self, arguments: list[str]) -> None:
        """Plan the jobs, run or launch them, and pass each result to the task.

        An error that a job raised is raised again once all results have been passed.
        """
        assert self.config is not None
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        (grid,) = self.split_arguments(overrides, None)
        composer = JobComposer(self.hydra_context.config_loader, self.config)
        grid = composer.expand(grid)
        batches = self.task.plan_jobs([composer.compose(job) for job in grid])
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        if isinstance(self.launcher, BasicLauncher):
            results = self._run_here(self.launcher, grid, batches)
        else:
            jobs = [grid[number] for batch in batches for number in batch]
            results = self._launch(jobs, folder / "launcher.log")
        self._collect(results)

    def _run_here(
        self, launcher: BasicLauncher, grid: list[list[str]], batches: list[list[int]]
    ) -> Iterator[JobReturn]:
        """Run each batch under its first job; of the others Hydra keeps the configuration."""
        index = 0
        for batch in batches:
            work: Callable[[DictConfig], Any] = partial(self.task.run_batch, batch)
            for number in batch:
                launcher.task_function = work
                (result,) = launcher.launch([grid[number]], index)
                result.cfg = result.hydra_cfg = None  # a quarter of a megabyte, twice
                if work is not _nothing:
                    yield result
                work, index = _nothing, index + 1

    def _launch(self, jobs: list[list[str]], log_file: Path) -> Iterator[JobReturn]:
        """Hand jobs to the launcher, and tell the task if the launcher fails."""
        log_file.unlink(missing_ok=True)
        launcher: Any = self.launcher
        index = 0
        for chunk in self.split_overrides_to_chunks(jobs, self.max_batch_size) if jobs else ():
            try:
                yield from launcher.launch(chunk, index)
            except (UserError, HydraException, OmegaConfBaseException):
                raise
            except Exception as error:  # each launcher raises its own errors
                reason = " ".join(str(error).split())[:200].rstrip(".: ")
                details = ""
                with suppress(OSError):  # where a disk is full, jobs fail too
                    write_text(log_file, redacted(traceback.format_exc()))
                    details = f" Details are in {log_file}."
                self.task.on_launcher_failure(
                    f"The launcher failed: {type(error).__name__}: {reason}.{details}"
                )
            index += len(chunk)

    def _collect(self, results: Iterable[JobReturn]) -> None:
        errors = []
        for result in results:
            try:
                self.task.on_result(result.return_value)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


class JobComposer:
    """Composes the jobs of a sweep as Hydra would, without Hydra's own configuration.

    Hydra takes an eighth of a second to compose one. Jobs that choose the same YAML files differ
    only in values: these are set in copies of one composed configuration.
    """

    def __init__(self, loader: Any, config: DictConfig) -> None:
        self._loader, self._config = loader, config
        self._parser = OverridesParser.create()
        self._is_group = cache(lambda key: bool(loader.get_group_options(key)))
        self._templates: dict[tuple[str, ...], DictConfig] = {}

    def expand(self, grid: list[list[str]]) -> list[list[str]]:
        """Return the overrides of each different job, as Hydra understands them.

        An option that only some metrics, strategies or recipes of the sweep have is left out for
        the others.
        """
        models = self._loader.get_group_options("model")
        jobs = [expand(job, models) for job in grid]
        options = [self._options(job) for job in jobs]
        in_any_job = set[str]().union(*options)
        applicable: dict[tuple[str, ...], None] = {}
        for job, own in zip(jobs, options, strict=True):
            of_others = in_any_job - own
            applicable[tuple(text for text in job if _option(text) not in of_others)] = None
        return list(map(list, applicable))

    def compose(self, overrides: list[str]) -> DictConfig:
        """Return the configuration of a job."""
        template, values = self._split(overrides)
        job = deepcopy(template)
        for override in values:
            try:
                OmegaConf.update(job, override.key_or_group, override.value(), merge=True)
            except OmegaConfBaseException:
                raise
            except OVERRIDE_ERRORS as error:
                raise UserError(explain(error)) from error
        return job

    def _split(self, overrides: list[str]) -> tuple[DictConfig, list[Override]]:
        """Return the configuration that the choices of a job make, and the values set in it."""
        parsed = dict(zip(overrides, self._parser.parse_overrides(overrides), strict=True))
        values = {
            text: override
            for text, override in parsed.items()
            if _only_sets_value(override) and not self._is_group(override.key_or_group)
        }
        choices = tuple(text for text in overrides if text not in values)
        if choices not in self._templates:
            composed = self._loader.load_sweep_config(self._config, list(choices))
            with open_dict(composed):
                del composed["hydra"]
            self._templates[choices] = composed
        return self._templates[choices], list(values.values())

    def _options(self, overrides: list[str]) -> set[str]:
        """Return the options of the metric, the strategy and the recipe that a job chooses."""
        template, _ = self._split(overrides)
        return {
            f"{registry.group}.{name}"
            for registry in REGISTRIES
            for name in template.get(registry.group) or ()
        }


def _option(override: str) -> str:
    """Return the key of an override, up to an option within a group."""
    return ".".join(override.partition("=")[0].split(".")[:2])


def _nothing(composed: DictConfig) -> None:
    """Run nothing: the batch of the job has run already."""


CHOOSING = {"model.path", *(f"{registry.group}.{registry.key}" for registry in REGISTRIES)}
"""Values that decide which other keys there are, or which of their values apply."""


def _only_sets_value(override: Override) -> bool:
    """Return True if an override sets a value of a composed configuration, and does no more."""
    return (
        override.type is OverrideType.CHANGE
        and override.package is None
        and not override.key_or_group.startswith("hydra.")
        and override.key_or_group not in CHOOSING
    )


PLUGIN = "hydra_plugins.layerprune.PrecheckedSweeper"
"""A name by which Hydra recognises a plugin. It scans packages of that name; registered directly,
this one needs none."""


def register() -> None:
    """Register `hydra/sweeper=grid` with Hydra."""
    Plugins.instance().class_name_to_class[PLUGIN] = PrecheckedSweeper
    node = {"_target_": PLUGIN, "max_batch_size": None, "params": None}
    ConfigStore.instance().store(
        group="hydra/sweeper", name="grid", node=node, provider="layerprune"
    )
