"""Which layers cut models will keep, as far as that can be said before anything is measured."""

import numpy as np

from layerprune.config.schema import PruneConfig
from layerprune.paths.tree import Path
from layerprune.plan.deepest import deepest
from layerprune.plan.random import random
from layerprune.plan.reference import reference
from layerprune.plan.target import Target


def likely(
    name: str, prune: PruneConfig, targets: list[Target], num_layers: int, seed: int
) -> list[Path]:
    """The layers that each point keeps.

    `block`: the blocks that the paper's authors found where they are known, else those just below
    the last layer. Strategies that drop single layers: layers at random, which share least.
    """
    nothing = np.zeros((num_layers + 1, num_layers + 1))
    known = reference(name, num_layers)
    paths = []
    for target in targets:
        count = target.count
        if target.layers is not None:
            dropped = target.layers
        elif prune.strategy == "block" and known is not None and 0 < count <= len(known.starts):
            first = known.starts[count - 1]
            dropped = tuple(range(first, first + count))
        elif prune.strategy in ("block", "deepest"):
            dropped = deepest(nothing, count, seed).layers if count else ()
        else:
            dropped = random(nothing, count, seed).layers if count else ()
        paths.append(tuple(layer for layer in range(num_layers) if layer not in set(dropped)))
    return paths
