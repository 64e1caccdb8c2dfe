"""With what a point was made: enough to make it again."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "layerprune", "torch", "transformers", "tokenizers", "lm_eval", "datasets", "numpy",
    "hydra-core", "peft", "bitsandbytes", "accelerate", "wandb",
)  # fmt: skip


def provenance(device: str, threads: int, deterministic: bool) -> dict[str, Any]:
    """Versions, machine, commit and time. No host name and no environment variable."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": sys.argv[1:],
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "deterministic": deterministic,
        "device": device,
        "versions": {name: _version(name) for name in PACKAGES},
    }


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _commit() -> str | None:
    """The project's own commit, with `+` where files differ from it; None outside its repository.

    An installed package may lie inside somebody else's repository: that commit would be wrong.
    """
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(root), *command], capture_output=True, text=True, timeout=10
            ).stdout.strip()
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changes else "") if commit else None
