"""Models whose parts are on several devices, or wait in memory or on disk until they are used.

accelerate's hooks bring a part and what it reads together; what is left to know is where inputs go,
since the weights themselves may be nowhere (`meta`).
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from layerprune.model.stack import decoder_stack


class Spread:
    """How transformers is told to spread a model, and the folder for what waits on disk."""

    def __init__(self, device_map: str | dict[str, Any] = "auto") -> None:
        # Safetensors are read from where they are, but for what is converted while it is loaded.
        self._folder = TemporaryDirectory(prefix="layerprune-", ignore_cleanup_errors=True)
        self.arguments: dict[str, Any] = {
            "device_map": device_map,
            "offload_folder": self._folder.name,
        }

    def belongs_to(self, model: PreTrainedModel) -> None:
        """Let the folder be gone when the model is."""
        weakref.finalize(model, self._folder.cleanup)


def on_disk(model: PreTrainedModel, place: torch.device) -> dict[str, Any]:
    """The map by which a model's layers stay on disk, and all other parts are in one place."""
    layers = decoder_stack(model).layers
    where = "cpu" if place.type == "cpu" else place.index or 0  # as accelerate calls them

    def places(part: nn.Module, path: str) -> Iterator[tuple[str, Any]]:
        if part is layers:
            yield from ((f"{path}{number}", "disk") for number in range(len(layers)))
        elif not any(each is layers for each in part.modules()):
            yield path.removesuffix("."), where
        else:
            for name, child in part.named_children():
                yield from places(child, f"{path}{name}.")
            own = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
            yield from ((f"{path}{name}", where) for name, _ in own)

    return dict(places(model, ""))


def input_device(model: PreTrainedModel) -> torch.device:
    """Where a model's inputs go, and where all that is caught inside of it is brought together."""
    return next(_executing(model), None) or model.device


def layers_wait(model: PreTrainedModel) -> bool:
    """Whether the weights of every layer are somewhere else until it runs."""
    layers = decoder_stack(model).layers
    return all(any(weight.is_meta for weight in layer.parameters()) for layer in layers)


@contextmanager
def resident(layer: nn.Module) -> Iterator[None]:
    """A layer's weights are where it runs inside the block: read once, however often it runs."""
    # What moves the layer's inputs stays.
    parts: list[Any] = [
        part for part in layer.modules() if part is not layer and hasattr(part, "_hf_hook")
    ]
    hooked = [part.forward for part in parts]
    for part in parts:
        part._hf_hook.pre_forward(part)
        part.forward = part._old_forward
    try:
        yield
    finally:
        for part, forward in zip(parts, hooked, strict=True):
            part.forward = forward
            part._hf_hook.post_forward(part, None)


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
