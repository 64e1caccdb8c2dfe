"""Blocks that the paper's authors removed, to compare measurements with."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from layerprune.prune.distance_matrix import Matrix
from layerprune.prune.strategies.block import best_block


@dataclass(frozen=True)
class Reference:
    """The blocks of one model: `starts` are l*(n) for n = 1, 2, 3, ..., counted from 0."""

    names: tuple[str, ...]
    num_layers: int
    starts: tuple[int, ...]


@dataclass(frozen=True)
class Agreement:
    """Agreement of measured blocks with the authors', over all block sizes."""

    starts: tuple[int, ...]
    """Measured l*(n), for the n of the reference."""
    exact: int
    within_one: int
    """Blocks that begin at most one layer away."""
    of: int
    furthest: int
    """Greatest distance between two blocks of one size, in layers."""


@cache
def references() -> list[Reference]:
    """Return the authors' blocks of all models that are known."""
    models = yaml.safe_load(Path(__file__).with_name("reference_blocks.yaml").read_text())
    return [
        Reference(tuple(model["names"]), model["num_layers"], tuple(model["starts"]))
        for model in models
    ]


def reference(name: str, num_layers: int) -> Reference | None:
    """Return the authors' blocks of a model, or None if they are not known."""
    matching = (blocks for blocks in references() if name in blocks.names)
    return next((blocks for blocks in matching if num_layers == blocks.num_layers), None)


def agreement(authors: Reference, distances_SS: Matrix) -> Agreement:
    """Compare the most similar blocks by distances [L+1, L+1] with the authors'."""
    counts = range(1, len(authors.starts) + 1)
    starts = [best_block(distances_SS, count)[0] for count in counts]
    apart = np.abs(np.array(starts) - np.array(authors.starts))
    return Agreement(
        starts=tuple(starts),
        exact=int((apart == 0).sum()),
        within_one=int((apart <= 1).sum()),
        of=len(apart),
        furthest=int(apart.max()),
    )
