"""Models whose parts are on several devices, or wait in memory or on disk until they are used.

accelerate's hooks bring a part and what it reads together; what is left to know is where inputs go,
since the weights themselves may be nowhere (`meta`).
"""

import weakref
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


class Spread:
    """How transformers is told to spread a model, and the folder for what waits on disk."""

    def __init__(self) -> None:
        # Safetensors are read from where they are, but for what is converted while it is loaded.
        self._folder = TemporaryDirectory(prefix="layerprune-", ignore_cleanup_errors=True)
        self.arguments: dict[str, Any] = {
            "device_map": "auto",
            "offload_folder": self._folder.name,
        }

    def belongs_to(self, model: PreTrainedModel) -> None:
        """Let the folder be gone when the model is."""
        weakref.finalize(model, self._folder.cleanup)


def input_device(model: PreTrainedModel) -> torch.device:
    """Where a model's inputs go, and where all that is caught inside of it is brought together."""
    return next(_executing(model), None) or model.device


def devices(model: PreTrainedModel) -> list[torch.device]:
    """All devices that parts of a model run on, that of its inputs first."""
    return list(dict.fromkeys([input_device(model), *_executing(model)]))


def _executing(model: nn.Module) -> Iterator[torch.device]:
    for part in model.modules():
        hook = getattr(part, "_hf_hook", None)
        for each in getattr(hook, "hooks", [hook]):
            device = getattr(each, "execution_device", None)
            if device is not None:
                yield torch.device(device)
