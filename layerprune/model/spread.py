"""Models whose parts are on several devices, or wait in memory or on disk until they are used.

accelerate's hooks bring a part and what it reads together; what is left to know is where inputs go,
since the weights themselves may be nowhere (`meta`).
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate.hooks import remove_hook_from_module
from torch import nn
from transformers import PreTrainedModel

from layerprune import memory
from layerprune.model.precision import read_header
from layerprune.model.quantized import in_few_bits
from layerprune.model.stack import decoder_stack

AT_ONCE = 2**24
"""Bytes that are read ahead at a time."""


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
        """Let the folder be gone when the model is, and a layer's memory once its weights are."""
        weakref.finalize(model, self._folder.cleanup)
        for layer in decoder_stack(model).layers:
            layer.register_forward_hook(_give_back)


def _give_back(layer: nn.Module, _given: object, _output: object) -> None:
    if waits(layer):  # it was read for this once
        memory.trim()


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
    """Whether the weights of some layers are somewhere else until they run."""
    return waits(decoder_stack(model).layers)


def waits(part: nn.Module) -> bool:
    """Whether weights of a part are somewhere else until it runs."""
    return any(weight.is_meta for weight in part.parameters())


@contextmanager
def resident(layer: nn.Module) -> Iterator[None]:
    """A layer's weights are where it runs inside the block: read once, however often it runs."""
    try:
        with ExitStack() as parts:
            for path, part in list(layer.named_modules()):
                # What moves the layer's inputs stays.
                if part is not layer and hasattr(part, "_hf_hook"):
                    parts.enter_context(_read(layer, path, part))
            yield
    finally:
        memory.trim()


@contextmanager
def _read(layer: nn.Module, path: str, part: Any) -> Iterator[None]:
    part._hf_hook.pre_forward(part)
    if few := in_few_bits(part):
        part._hf_hook.post_forward(part, None)
        layer.set_submodule(path, few)
        try:
            yield
        finally:
            layer.set_submodule(path, part)
        return
    hooked = part.forward
    part.forward = part._old_forward
    try:
        yield
    finally:
        part.forward = hooked
        part._hf_hook.post_forward(part, None)


def stay(layers: Iterable[nn.Module]) -> None:
    """Read layers whose weights wait, and leave them where they run."""
    for layer in layers:
        for part in layer.modules():
            if part is not layer and hasattr(part, "_hf_hook"):
                hook: Any = part._hf_hook
                hook.pre_forward(part)
                remove_hook_from_module(part)


@contextmanager
def reading_ahead(
    layers: Iterable[nn.Module],
) -> Iterator[Callable[[nn.Module], AbstractContextManager[None]]]:
    """Makes layers `resident`, one after another in this order.

    Meanwhile the files are read that the next one lies in: it comes from the system's cache then,
    which gives way where memory is needed for something else.
    """
    after = dict(pairwise(layers))

    @contextmanager
    def read(layer: nn.Module) -> Iterator[None]:
        with resident(layer):
            if layer in after:
                reader.submit(_read_files, after[layer])
            yield

    with ThreadPoolExecutor(1) as reader:
        yield read


def _read_files(layer: nn.Module) -> None:
    content = bytearray(AT_ONCE)
    for path, start, size in sorted(_files(layer)):
        # Who runs the layer says what is wrong with a file.
        with suppress(OSError), path.open("rb", buffering=0) as file:
            file.seek(start)
            left = size
            while left and (count := file.readinto(memoryview(content)[:left])):
                left -= count


def bytes_on_disk(layer: nn.Module) -> int:
    """How much is read for a layer whose weights wait on disk."""
    return sum(size for _, _, size in _files(layer))


def _files(layer: nn.Module) -> set[tuple[Path, int, int]]:
    """Where the weights of a layer lie on disk: files, where in them, and how many bytes."""
    found = set()
    for part in layer.modules():
        hook = getattr(part, "_hf_hook", None)
        for each in getattr(hook, "hooks", [hook]):
            weights: Any = getattr(each, "weights_map", None)
            index = getattr(getattr(weights, "dataset", None), "index", {})
            for name, _ in part.named_parameters(recurse=getattr(each, "place_submodules", False)):
                key = f"{weights.prefix}{name}" if index else ""
                if key in index:
                    found.add(_place(key, index[key], weights.dataset.save_folder))
    return found


def _place(key: str, of: dict[str, Any], folder: str) -> tuple[Path, int, int]:
    if of.get("safetensors_file") is None:  # converted while it was loaded
        path = Path(folder) / f"{key}.dat"
        return path, 0, path.stat().st_size
    path = Path(of["safetensors_file"])
    tensors, data = _header(path)
    start, end = tensors[of.get("weight_name", key)]["data_offsets"]
    return path, data + start, end - start


@cache
def _header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    return read_header(path)


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
