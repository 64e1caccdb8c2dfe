"""Buffer states until the next layer reads them: in memory, or spilled to disk."""

import uuid
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

States = tuple[Tensor, ...]
"""The tensors of a batch between two branches; () before the first."""

BufferedStates = Callable[[], States]
"""Returns the states. Their memory or files are freed with this object."""


def no_states() -> States:
    """Return the states before the first branch, and after the last: none."""
    return ()


def buffer_states(states: States, folder: Path | None) -> BufferedStates:
    """Keep states in memory, or in one file each in `folder`."""
    if folder is None:
        return lambda: states
    spilled = [_SpilledTensor(state, folder / uuid.uuid4().hex) for state in states]
    return lambda: tuple(tensor.read() for tensor in spilled)


class _SpilledTensor:
    """A tensor in a file, which is deleted with this object."""

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
