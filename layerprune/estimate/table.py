"""A table of the estimated costs of pending points."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from layerprune.config.schema import PruneOptions
from layerprune.estimate.cost import (
    DECODING,
    PEAK_FLOPS,
    PREFILL,
    QUANTIZED,
    STREAM_MEMORY,
    TRAINING,
    Cost,
    healed_cost,
    profile_cost,
    unhealed_cost,
)
from layerprune.estimate.shape import Shape, shape_of
from layerprune.prune.reference import reference
from layerprune.prune.strategies import OrderStrategy
from layerprune.prune.strategies.deepest import Deepest
from layerprune.prune.strategies.random import RandomLayers
from layerprune.prune.target import Target
from layerprune.record.identity import profile_identity
from layerprune.record.point import content_hash
from layerprune.run.job import Job
from layerprune.shared_forward.prefix_tree import LayerPath

DISK_BYTES_PER_S = 2e9
"""Assumed bytes per second of a disk: an NVMe drive reads 2 to 7 GB/s."""

COLUMNS = ("points", "evaluated", "trained", "PFLOP", "A100 hours", "memory")

ASSUMPTIONS = (
    f"Estimated for one A100 ({PEAK_FLOPS / 1e12:.0f} TFLOP/s). Prefill is assumed to reach "
    f"{PREFILL:.0%} of the peak, training {TRAINING:.0%}, decoding "
    f"{DECODING:.0%}; weights in 4 or 8 bits reach {QUANTIZED:.0%} of that. Tokens in "
    "millions. Memory with the dense model loaded, or with one of its layers for runtime.stream."
)


def costs(jobs: Sequence[Job]) -> dict[str, tuple[int, Cost]]:
    """Return the number and the cost of pending points by job title, for models of known shape.

    Distances that several jobs need are counted with the first of them.
    """
    shapes: dict[Path, Shape | None] = {}
    of_title: dict[str, tuple[int, Cost]] = {}
    profiled = set()
    for job in jobs:
        todo = [target for key, target in job.targets.items() if job.store.read(key) is None]
        if not todo:
            continue
        if (folder := job.source.folder) not in shapes:  # names may repeat
            shapes[folder] = shape_of(job.config.model, folder)
        shape = shapes[folder]
        if shape is None:
            continue
        config = job.config
        paths = likely_paths(job.source.name, config.prune, todo, shape.num_layers, config.seed)
        count, cost = of_title.setdefault(job.curve_title, (0, Cost()))
        # A dry run may know no fingerprint of the model's files.
        distances = folder, content_hash(profile_identity(config, *job.digests))
        if distances not in profiled and not isinstance(config.prune, OrderStrategy):
            profiled.add(distances)
            cost.add(profile_cost(config, shape))
        cost.add((healed_cost if job.healed else unhealed_cost)(config, shape, paths))
        of_title[job.curve_title] = count + len(todo), cost
    return of_title


def likely_paths(
    name: str, prune: PruneOptions, targets: list[Target], num_layers: int, seed: int
) -> list[LayerPath]:
    """Return the layers that each point will probably keep.

    `block`: the blocks of the paper's authors if they are known, else those just below the last
    layer. Strategies that drop single layers: random layers, the worst case for sharing.
    """
    zeros_SS = np.zeros((num_layers + 1, num_layers + 1))
    strategy = Deepest() if prune.strategy in ("block", "deepest") else RandomLayers()
    blocks = reference(name, num_layers) if prune.strategy == "block" else None
    starts = () if blocks is None else blocks.starts
    paths = []
    for target in targets:
        plan = strategy.plan(target, zeros_SS, seed)
        if target.layers is None and 0 < target.count <= len(starts):
            first = starts[target.count - 1]
            plan = replace(plan, dropped=tuple(range(first, first + target.count)))
        paths.append(plan.kept)
    return paths


def show_costs(jobs: Sequence[Job]) -> None:
    """Print a row for each model, strategy and recipe, and a total."""
    by_title = costs(jobs)
    if not by_title:
        return
    table = Table("to do", *(Column(name, justify="right") for name in COLUMNS), box=SIMPLE)
    total = Cost()
    for title, (count, cost) in by_title.items():
        table.add_row(title, *_row(count, cost))
        total.add(cost)
    if len(by_title) > 1:
        table.add_row("all", *_row(sum(count for count, _ in by_title.values()), total))
    console = Console()
    console.print(table)
    console.print(ASSUMPTIONS, highlight=False)
    if not total.complete:
        console.print("+: tasks of unknown size are not counted.")
    if total.streamed_bytes:
        console.print(
            f"The tasks need {total.stream_passes:,} passes over the model's files; with text and "
            f"distances {total.streamed_bytes / 1e9:,.0f} GB are read, which takes "
            f"{total.streamed_bytes / DISK_BYTES_PER_S / 3600:.1f} h at "
            f"{DISK_BYTES_PER_S / 1e9:.0f} GB/s, in parallel. Without runtime.memory, "
            f"{STREAM_MEMORY / 1e9:.0f} GB of buffered states are assumed.",
            highlight=False,
        )
    strategies = (job.config.prune for job in jobs)
    names = {option.strategy for option in strategies if isinstance(option, OrderStrategy)}
    for name in sorted(names):
        console.print(f"The measurements of prune={name} are not counted.")


def _row(count: int, cost: Cost) -> list[str]:
    plus = "" if cost.complete else "+"
    return [
        str(count),
        f"{_short(cost.eval_tokens / 1e6)}{plus}",
        _short(cost.healing_tokens / 1e6) if cost.healing_tokens else "",
        f"{_short(sum(cost.flops.values()) / 1e15)}{plus}",
        f"{_short(cost.hours)}{plus}",
        f"{cost.memory / 1e9:,.1f} GB",
    ]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 1 else f"{value:.2g}"
