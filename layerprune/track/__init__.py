"""Weights & Biases: a mirror of a study's records, never the truth.

From records on disk to runs as plain data (`runs`), and from there to W&B (`send`), whatever is
not there yet (`mirror`).
"""

from layerprune.track.mirrored import Mirrored, mirror

__all__ = ["Mirrored", "mirror"]
