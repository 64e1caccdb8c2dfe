"""Where curves are mirrored to."""

from dataclasses import dataclass
from enum import Enum


class TrackerMode(Enum):
    """What Weights & Biases does with the curves."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass(kw_only=True, slots=True)
class TrackerConfig:
    """Where the curves are mirrored to."""

    mode: TrackerMode = TrackerMode.offline
    """`offline`: folders for `wandb sync`. `online`: the server. `disabled`: wandb is not used."""
    project: str = "layerprune"
    """Where runs are collected."""
    entity: str | None = None
    """Whose project it is: a user or a team; the account's own if not given."""
