"""Matrices of distances, kept by what they depend on."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerprune.files import read_sealed, write_sealed
from layerprune.locks import alone

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """Distances between the inputs of every two layers of a model, and what they depend on."""

    key: str
    depends_on: dict[str, Any]
    num_sequences: int
    """Sequences that were averaged over: fewer than asked for where the text is short."""
    distances: list[list[float]]
    """[L+1][L+1], in units of pi for angles."""

    @property
    def matrix(self) -> Matrix:
        """The distances as a float64 array [L+1, L+1]."""
        return np.array(self.distances, dtype=np.float64)


def stored(folder: Path, key: str, measure: Callable[[], Profile]) -> Profile:
    """The profile of that key in `folder`; measured and kept if it is not there whole."""
    path = folder / f"{key}.json"
    profile = _read(path, key)
    if profile is not None:
        return profile
    with alone(path):
        profile = _read(path, key)  # another process may have been faster
        if profile is None:
            profile = measure()
            write_sealed(path, asdict(profile))
    return profile


def _read(path: Path, key: str) -> Profile | None:
    try:
        profile = Profile(**read_sealed(path))
        whole = profile.key == key and profile.matrix.ndim == 2
        return profile if whole and np.isfinite(profile.matrix).all() else None
    except (OSError, ValueError, TypeError):
        return None  # not there, or damaged: it is measured again
