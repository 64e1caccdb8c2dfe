"""States that wait for their next layer: in memory, or on disk."""

import uuid
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

States = tuple[Tensor, ...]
"""What a batch holds between two branches; () before the first."""

Kept = Callable[[], States]
"""Gives states back; they are gone when it is."""


def nothing() -> States:
    """Before the first branch, and after the last."""
    return ()


def keep(states: States, folder: Path | None) -> Kept:
    """Keep states in memory, or in a file each in `folder`."""
    return (lambda: states) if folder is None else _OnDisk(states, folder)


class _OnDisk:
    def __init__(self, states: States, folder: Path) -> None:
        self._files = [_File(state, folder / uuid.uuid4().hex) for state in states]

    def __call__(self) -> States:
        return tuple(file.read() for file in self._files)


class _File:
    """A tensor in a file, which is removed with this object."""

    def __init__(self, tensor: Tensor, path: Path) -> None:
        self._path, self._shape = path, tensor.shape
        self._dtype, self._device = tensor.dtype, tensor.device
        path.write_bytes(tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes())

    def read(self) -> Tensor:
        content = torch.from_file(
            str(self._path), shared=False, size=self._shape.numel(), dtype=self._dtype
        )
        return content.view(self._shape).to(self._device)

    def __del__(self) -> None:
        self._path.unlink(missing_ok=True)
