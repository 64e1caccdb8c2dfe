"""Where a point's model lies as a checkpoint, and in which form."""

import json
from pathlib import Path
from typing import Any

MODEL = "model"
"""Folder of a point with its checkpoint."""

ABOUT = "layerprune.json"
"""File in it that says which point it is, and in which form it was asked for."""


def written(point: Path) -> tuple[Any, Any] | None:
    """The form of the checkpoint in a point's folder, and what its card says; None without one."""
    try:
        content = json.loads((point / MODEL / ABOUT).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content.get("export"), content.get("said")
