"""The blocks that the paper's authors dropped, to hold a measurement against."""

from dataclasses import dataclass

import numpy as np

from layerprune.plan.block import block
from layerprune.similarity.profile import Matrix


@dataclass(frozen=True)
class Reference:
    """First layers of the blocks of one model, counted from 0."""

    names: tuple[str, ...]
    """What the model is called here and on the hub."""
    num_layers: int
    starts: tuple[int, ...]
    """l*(n) for n = 1, 2, 3, ..."""


REFERENCES = (
    Reference(
        ("llama2_7b", "Llama-2-7b-hf"),
        32,
        (23, 24, 23, 23, 23, 22, 22, 21, 20, 19, 18, 18, 17, 16, 15, 8, 8, 7, 4, 4, 4, 2, 2, 2),
    ),
    Reference(
        ("llama2_13b", "Llama-2-13b-hf"),
        40,
        (33, 32, 31, 30, 29, 28, 27, 27, 27, 26, 25, 24, 24, 23, 22, 22, 20, 19, 18, 18, 17, 17,
         15, 3, 3, 3, 3, 3, 3, 3, 3, 3),
    ),
    Reference(
        ("llama2_70b", "Llama-2-70b-hf"),
        80,
        (62, 62, 61, 62, 61, 60, 61, 58, 59, 58, 58, 57, 56, 55, 54, 53, 53, 53, 53, 53, 51, 50,
         49, 50, 49, 49, 48, 48, 46, 46, 45, 44, 43, 42, 41, 40, 39, 37, 35, 35, 33, 33, 29, 30,
         29, 28, 28, 28, 26, 25, 23, 22, 22, 21, 20, 19, 19, 18, 16, 16, 14, 14, 13, 10),
    ),
    Reference(
        ("mistral_7b", "Mistral-7B-v0.1"),
        32,
        (26, 24, 23, 23, 23, 22, 21, 21, 20, 20, 19, 17, 17, 16, 13, 13, 11, 8, 8, 6, 6, 5, 4, 3),
    ),
)  # fmt: skip
"""From a script for evaluating models that is attributed to the authors of Gromov et al.
(arXiv 2403.17887), where they stand as lists. The paper does not print them, and the final runs may
have had others: reference values, not an exact oracle."""


@dataclass(frozen=True)
class Agreement:
    """In how many numbers of layers a measurement chooses the authors' block."""

    starts: tuple[int, ...]
    """l*(n) as measured, for the n of the reference."""
    exact: int
    within_one: int
    """Begins at the same layer or at one beside it."""
    of: int
    furthest: int
    """Layers between the two blocks that are furthest apart."""


def reference(name: str, num_layers: int) -> Reference | None:
    """The authors' blocks of a model, if they are known."""
    for known in REFERENCES:
        if name in known.names and num_layers == known.num_layers:
            return known
    return None


def agreement(known: Reference, distances_SS: Matrix) -> Agreement:
    """How near the blocks chosen by distances [L+1, L+1] come to the authors'."""
    counts = range(1, len(known.starts) + 1)
    starts = [block(distances_SS, count, seed=0).layers[0] for count in counts]
    apart = np.abs(np.array(starts) - np.array(known.starts))
    return Agreement(
        starts=tuple(starts),
        exact=int((apart == 0).sum()),
        within_one=int((apart <= 1).sum()),
        of=len(apart),
        furthest=int(apart.max()),
    )
