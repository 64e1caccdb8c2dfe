"""Models spread over several devices, or whose weights are offloaded to memory or disk until used.

accelerate's hooks bring a part's weights and inputs together. Offloaded weights are on the `meta`
device, so devices are read from the hooks, not from the weights.
"""

import logging
import weakref
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from copy import copy
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate.hooks import remove_hook_from_module
from accelerate.utils import OffloadedWeightsLoader
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerprune.model.quantized import quantized_part
from layerprune.model.stack import decoder_stack
from layerprune.model.weight_files import read_header
from layerprune.runtime import memory

log = logging.getLogger(__name__)

HostWeights = dict[Any, dict[str, Tensor]]
"""Weights that have been read, by accelerate's hook that loads them, and by name."""

READ_AHEAD_BYTES = 2**24
"""Size of the buffer that read-ahead goes through."""


class OffloadPlan:
    """Arguments by which `from_pretrained` distributes a model, and the folder it offloads to."""

    def __init__(self, device_map: str | dict[str, Any] = "auto") -> None:
        # Safetensors stay where they are; only weights converted while loading need the folder.
        self._folder = TemporaryDirectory(prefix="layerprune-", ignore_cleanup_errors=True)
        self.arguments: dict[str, Any] = {
            "device_map": device_map,
            "offload_folder": self._folder.name,
        }

    def attach_to(self, model: PreTrainedModel) -> None:
        """Delete the folder with the model, and trim memory after each offloaded layer runs."""
        weakref.finalize(model, self._folder.cleanup)
        for layer in decoder_stack(model).layers:
            layer.register_forward_hook(
                lambda layer, *_: memory.trim() if is_offloaded(layer) else None
            )


def disk_device_map(model: PreTrainedModel, device: torch.device) -> dict[str, Any]:
    """Return the device map that leaves a model's layers on disk and puts the rest on `device`."""
    layers = decoder_stack(model).layers
    target = "cpu" if device.type == "cpu" else device.index or 0  # accelerate's names of devices

    def placements(part: nn.Module, path: str) -> Iterator[tuple[str, Any]]:
        if part is layers:
            yield from ((f"{path}{layer}", "disk") for layer in range(len(layers)))
        elif not any(child is layers for child in part.modules()):
            yield path.removesuffix("."), target
        else:
            for name, child in part.named_children():
                yield from placements(child, f"{path}{name}.")
            own = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
            yield from ((f"{path}{name}", target) for name, _ in own)

    return dict(placements(model, ""))


def devices(model: PreTrainedModel) -> list[torch.device]:
    """Return all devices that parts of a model run on, the device of its inputs first."""
    return list(dict.fromkeys([input_device(model), *_execution_devices(model)]))


def input_device(model: PreTrainedModel) -> torch.device:
    """Return the device that a model's inputs go to, and where captured states are collected."""
    return next(_execution_devices(model), None) or model.device


def _execution_devices(model: nn.Module) -> Iterator[torch.device]:
    for part in model.modules():
        for hook in _hooks(part):
            device = getattr(hook, "execution_device", None)
            if device is not None:
                yield torch.device(device)


def _hooks(part: nn.Module) -> list[Any]:
    """Return accelerate's hooks on a part; [None] if there are none."""
    hook = getattr(part, "_hf_hook", None)
    return list(getattr(hook, "hooks", [hook]))


def is_offloaded(part: nn.Module) -> bool:
    """Return True if any weight of a part is elsewhere until the part runs."""
    return any(weight.is_meta for weight in part.parameters())


@contextmanager
def materialized(layer: nn.Module, read: HostWeights | None = None) -> Iterator[None]:
    """Load a layer's weights once and hold them inside the block, however often the layer runs.

    Weights in `read`, which is emptied, need not be read from disk.
    """
    try:
        with ExitStack() as parts:
            with _taken_from(read or {}):
                for path, part in _hooked_parts(layer):
                    parts.enter_context(_materialized_part(layer, path, part))
            yield
    finally:
        memory.trim()


def materialize(layers: Iterable[nn.Module]) -> None:
    """Load the weights of offloaded layers for good, where the layers run."""
    for layer in layers:
        for _, part in _hooked_parts(layer):
            part._hf_hook.pre_forward(part)
            remove_hook_from_module(part)


def _hooked_parts(layer: nn.Module) -> list[tuple[str, Any]]:
    # The hook of the layer itself moves its inputs, and stays.
    parts = list(layer.named_modules())[1:]
    return [(path, part) for path, part in parts if hasattr(part, "_hf_hook")]


@contextmanager
def _materialized_part(layer: nn.Module, path: str, part: Any) -> Iterator[None]:
    part._hf_hook.pre_forward(part)
    if replacement := quantized_part(part):
        part._hf_hook.post_forward(part, None)
        layer.set_submodule(path, replacement)
        try:
            yield
        finally:
            layer.set_submodule(path, part)
        return
    hooked_forward = part.forward
    part.forward = part._old_forward
    try:
        yield
    finally:
        part.forward = hooked_forward
        part._hf_hook.post_forward(part, None)


@contextmanager
def _taken_from(read: HostWeights) -> Iterator[None]:
    """Let accelerate's hooks take weights that have been read, and free these after the block."""
    try:
        with ExitStack() as restored:
            for hook, weights in read.items():
                restored.callback(setattr, hook, "weights_map", hook.weights_map)
                hook.weights_map = ChainMap(weights, hook.weights_map)
            yield
    finally:
        read.clear()


@contextmanager
def prefetching(
    layers: Iterable[nn.Module],
) -> Iterator[Callable[[nn.Module], AbstractContextManager[None]]]:
    """Yield a `materialized` for layers that run in this order, which reads one layer ahead.

    While a layer is held, a thread reads the next one from disk. On a CPU loading it then hits the
    page cache, whose pages the system drops when memory is needed. For a GPU the thread reads it
    into pinned memory, from which the GPU copies fastest. The GPU still holds one layer.
    """
    next_layer = dict(pairwise(layers))
    read: dict[nn.Module, Future[HostWeights]] = {}

    @contextmanager
    def materialized_ahead(layer: nn.Module) -> Iterator[None]:
        waited_for = read.pop(layer, None)
        with materialized(layer, waited_for.result() if waited_for else None):
            following = next_layer.get(layer)
            if following is not None and _runs_on_cpu(following):
                reader.submit(_read_ahead, following)
            elif following is not None:
                read[following] = reader.submit(_read_pinned, following)
            yield

    with ThreadPoolExecutor(1) as reader:
        yield materialized_ahead


def _read_ahead(layer: nn.Module) -> None:
    buffer = bytearray(READ_AHEAD_BYTES)
    for path, start, size in sorted(_file_ranges(layer)):
        # A damaged file is reported when the layer is loaded.
        with suppress(OSError), path.open("rb", buffering=0) as file:
            file.seek(start)
            left = size
            while left and (count := file.readinto(memoryview(buffer)[:left])):
                left -= count


def _runs_on_cpu(layer: nn.Module) -> bool:
    return all(device.type == "cpu" for device in _execution_devices(layer))


def _read_pinned(layer: nn.Module) -> HostWeights:
    """Return the offloaded weights of a layer in pinned memory; {} if any cannot be read."""
    read: HostWeights = {}
    try:
        for _, part in _hooked_parts(layer):
            for hook in _hooks(part):
                if getattr(hook, "offload", False):
                    weights = _read_to_cpu(hook.weights_map)
                    names = part.named_parameters(recurse=hook.place_submodules)
                    read[hook] = {name: weights[name].pin_memory() for name, _ in names}
    except Exception:
        # A damaged file is reported when the layer is loaded; without pinned memory it loads, too.
        log.debug("A layer was not read ahead.", exc_info=True)
        return {}
    return read


def _read_to_cpu(weights_map: Any) -> Any:
    """Return the same weights, read into the CPU's memory: accelerate's loader reads to the GPU."""
    weights_map = copy(weights_map)
    if isinstance(weights_map.dataset, OffloadedWeightsLoader):
        weights_map.dataset = copy(weights_map.dataset)
        weights_map.dataset.device = None
    return weights_map


def bytes_on_disk(layer: nn.Module) -> int:
    """Return the bytes that are read from disk to load a layer; 0 if none of it is on disk."""
    return sum(size for _, _, size in _file_ranges(layer))


def _file_ranges(layer: nn.Module) -> set[tuple[Path, int, int]]:
    """Return (file, offset, bytes) of every weight of a layer that is on disk."""
    ranges = set()
    for part in layer.modules():
        for hook in _hooks(part):
            weights: Any = getattr(hook, "weights_map", None)
            index = getattr(getattr(weights, "dataset", None), "index", {})
            for name, _ in part.named_parameters(recurse=getattr(hook, "place_submodules", False)):
                key = f"{weights.prefix}{name}" if index else ""
                if key in index:
                    ranges.add(_file_range(key, index[key], weights.dataset.save_folder))
    return ranges


def _file_range(key: str, entry: dict[str, Any], folder: str) -> tuple[Path, int, int]:
    if entry.get("safetensors_file") is None:  # converted while it was loaded
        path = Path(folder) / f"{key}.dat"
        return path, 0, path.stat().st_size
    path = Path(entry["safetensors_file"])
    tensors, data_start = _cached_header(path)
    start, end = tensors[entry.get("weight_name", key)]["data_offsets"]
    return path, data_start + start, end - start


_cached_header = cache(read_header)
