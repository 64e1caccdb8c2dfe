"""A mirror of a study's records on Weights & Biases.

Records become runs as plain data (`runs`), whose missing ones (`sync`) are sent to W&B (`send`).
"""

from layerprune.track.sync import MirrorResult, mirror

__all__ = ["MirrorResult", "mirror"]
