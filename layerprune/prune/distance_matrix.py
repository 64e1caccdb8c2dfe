"""Matrices of layer distances, cached by what they depend on."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from layerprune.runtime.atomic_files import read_checksummed
from layerprune.runtime.cache import cached

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Matrix: TypeAlias = "NDArray[np.float64]"


@dataclass(frozen=True)
class DistanceMatrix:
    """Distances between the inputs of every two layers of a model, and what they depend on."""

    key: str
    depends_on: dict[str, Any]
    num_sequences: int
    """Sequences that were averaged over: fewer than requested if the text is short."""
    distances: list[list[float]]
    """[L+1][L+1], in units of pi for angles."""

    def __post_init__(self) -> None:
        side = len(self.distances)
        if self.matrix.shape != (side, side) or not abs(self.matrix).max() < math.inf:
            raise ValueError("distances: not a square of finite numbers")

    @property
    def matrix(self) -> Matrix:
        """The distances as a float64 array [L+1, L+1]."""
        import numpy as np  # not above: `--help` reads this file

        return np.array(self.distances, dtype=np.float64)


def cached_distance_matrix(
    folder: Path, key: str, measure: Callable[[], DistanceMatrix]
) -> DistanceMatrix:
    """Return the distances of that key from `folder`; measure and keep them if needed."""

    def read(path: Path) -> DistanceMatrix | None:
        distances = DistanceMatrix(**read_checksummed(path))
        return distances if distances.key == key else None

    return cached(folder / f"{key}.json", read, measure)
