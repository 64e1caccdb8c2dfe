"""What the points that are not there yet will take, as a table."""

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from layerprune.config.schema import Config
from layerprune.estimate.cost import (
    FEW_BITS,
    PEAK,
    READING,
    ROOM,
    TRAINING,
    WRITING,
    Cost,
    healed_cost,
    profile_cost,
    unhealed_cost,
)
from layerprune.estimate.paths import likely
from layerprune.estimate.shape import Shape, shape_of
from layerprune.job import Job
from layerprune.model.source import Source
from layerprune.plan import GREEDY

READ = 2e9
"""Bytes per second of a disk, assumed: an NVMe drive reads two to seven times a billion."""

COLUMNS = ("points", "asked", "trained", "PFLOP", "A100 hours", "memory")

SAID = (
    f"By arithmetic, for one A100 ({PEAK / 1e12:.0f} TFLOP/s), of whose peak reading is assumed to "
    f"take {READING:.0%}, training {TRAINING:.0%}, writing {WRITING:.0%}, and weights in 4 or 8 "
    f"bits to leave {FEW_BITS:.0%} of that. Tokens in millions; memory with the model whole, or "
    "one layer of it with runtime.stream."
)


def costs(jobs: Sequence[Job]) -> dict[str, tuple[int, Cost]]:
    """Points to do and their cost, by the jobs' titles; without models of unknown shape.

    Distances that several jobs need are counted with the first of them.
    """
    known: dict[Path, Shape | None] = {}
    of_title: dict[str, tuple[int, Cost]] = {}
    profiled = set()
    for job in jobs:
        todo = [target for key, target in job.targets.items() if job.store.read(key) is None]
        if not todo:
            continue
        if (folder := job.source.folder) not in known:  # names are for people
            known[folder] = shape_of(job.config.model, folder)
        shape = known[folder]
        if shape is None:
            continue
        config = job.config
        paths = likely(job.source.name, config.prune, todo, shape.num_layers, config.seed)
        count, cost = of_title.setdefault(job.kind, (0, Cost()))
        measured = _measured(config, job.source)
        if measured not in profiled and config.prune.strategy != GREEDY:
            profiled.add(measured)
            cost.join(profile_cost(config, shape))
        cost.join((healed_cost if job.healed else unhealed_cost)(config, shape, paths))
        of_title[job.kind] = count + len(todo), cost
    return of_title


def show_costs(jobs: Sequence[Job]) -> None:
    """Print a line for each model, strategy and recipe, and one for all."""
    found = costs(jobs)
    if not found:
        return
    table = Table("to do", *(Column(name, justify="right") for name in COLUMNS), box=SIMPLE)
    together = Cost()
    for title, (count, cost) in found.items():
        table.add_row(title, *_row(count, cost))
        together.join(cost)
    if len(found) > 1:
        table.add_row("all", *_row(sum(count for count, _ in found.values()), together))
    console = Console()
    console.print(table)
    console.print(SAID, highlight=False)
    if not together.complete:
        console.print("+: and questions whose number is not known before they are read.")
    if together.streamed:
        console.print(
            f"Layers are read from the model's files {together.passes:,} times for the "
            f"questions; with text and distances that is {together.streamed / 1e9:,.0f} GB, "
            f"{together.streamed / READ / 3600:.1f} h at {READ / 1e9:.0f} GB/s, while others run. "
            f"{ROOM / 1e9:.0f} GB are taken for states where runtime.memory says nothing.",
            highlight=False,
        )
    if any(job.config.prune.strategy == GREEDY for job in jobs):
        console.print("Measurements that prune=greedy makes on the way are not counted.")


def _row(count: int, cost: Cost) -> list[str]:
    more = "" if cost.complete else "+"
    return [
        str(count),
        f"{_short(cost.read / 1e6)}{more}",
        _short(cost.trained / 1e6) if cost.trained else "",
        f"{_short(sum(cost.flops.values()) / 1e15)}{more}",
        f"{_short(cost.hours)}{more}",
        f"{cost.memory / 1e9:,.1f} GB",
    ]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 1 else f"{value:.2g}"


def _measured(config: Config, source: Source) -> str:
    """What names a measurement of distances."""
    model = (str(source.folder), config.model.quantization, config.model.dtype)
    return repr((model, config.metric, config.data, config.seed))
