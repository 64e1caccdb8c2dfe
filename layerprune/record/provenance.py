"""Versions, machine and command line of a point: enough to reproduce it."""

import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from layerprune.record.validation import Count, Flag, Number

PACKAGES = (
    "layerprune", "torch", "transformers", "tokenizers", "lm_eval", "datasets", "numpy",
    "hydra-core", "peft", "bitsandbytes", "accelerate", "wandb",
)  # fmt: skip


@dataclass(frozen=True)
class PromptSharing:
    """Whether prompts shared the tokens that they begin with, and the reason."""

    difference: Number | None = None
    """Largest difference between a layer's states in a token tree and in its branches, relative
    to their norm; None if its decoder cannot run trees, or no question was asked."""
    cost: Number | None = None
    """If prompts ran one by one: their tokens, relative to the tokens of prompts that share."""


@dataclass(frozen=True)
class Provenance:
    """The origin of a point. No host name and no environment variable."""

    time: str
    """Time of the record: ISO 8601, UTC."""
    arguments: tuple[str, ...]
    """Arguments of the command line."""
    commit: str | None
    """Commit of layerprune, with `+` if files differ from it; None outside its repository."""
    python: str
    """Version of Python."""
    platform: str
    """Operating system and architecture."""
    cpus: Count | None
    """Logical CPUs of the machine."""
    threads: Count
    """CPU threads of PyTorch."""
    deterministic: Flag
    """True if PyTorch was limited to deterministic algorithms."""
    device: str
    """Device of the model, such as `cuda:0`."""
    versions: dict[str, str | None]
    """Versions of the packages that results may depend on; None if not installed."""
    prompt_sharing: PromptSharing = PromptSharing()
    """Of the questions that were not in the answer cache."""
    float32_matmul_precision: str = "highest"
    """How PyTorch multiplied float32 matrices: `highest`, `high` or `medium`."""

    @property
    def command_line(self) -> str:
        """The arguments as a shell takes them."""
        return shlex.join(self.arguments)

    @property
    def machine(self) -> str:
        """Platform, processors and threads, in words."""
        deterministic = ", deterministic" if self.deterministic else ""
        precision = self.float32_matmul_precision
        products = "" if precision == "highest" else f", float32 products in precision {precision}"
        return f"{self.platform}, {self.cpus} CPUs, {self.threads} threads{deterministic}{products}"

    @property
    def software(self) -> dict[str, str]:
        """The versions of Python and of every package that is installed."""
        installed = {name: number for name, number in self.versions.items() if number}
        return {"python": self.python, **installed}


def provenance(device: str, prompt_sharing: PromptSharing) -> Provenance:
    """Return versions, machine, settings of PyTorch, commit and time of this process."""
    import torch  # only where points are made: reports read records without it

    return Provenance(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        arguments=tuple(sys.argv[1:]),
        commit=_commit(),
        python=platform.python_version(),
        platform=platform.platform(),
        cpus=os.cpu_count(),
        threads=torch.get_num_threads(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        device=device,
        versions={name: _version(name) for name in PACKAGES},
        prompt_sharing=prompt_sharing,
        float32_matmul_precision=torch.get_float32_matmul_precision(),
    )


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _commit() -> str | None:
    # An installed package may lie inside somebody else's repository: that commit would be wrong.
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
