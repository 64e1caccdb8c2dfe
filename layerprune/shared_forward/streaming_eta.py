"""Announce how long passes over a model take whose layers are read from disk, before they start.

Letters: B batch, T time.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from layerprune.model.offload import bytes_on_disk, input_device, is_offloaded, materialized
from layerprune.model.partial_forward import partial_forward, runs_layer_by_layer
from layerprune.model.stack import Head, decoder_stack
from layerprune.runtime.progress import format_duration, say
from layerprune.shared_forward.memory_budget import MemoryBudget
from layerprune.shared_forward.prefix_tree import LayerPath, layer_runs

SEQUENCES, LENGTH = 16, 16
"""Sequences of the measurement, and their tokens, which fit any model's context."""


@dataclass(frozen=True)
class LayerTiming:
    """Speed of a model on this machine, measured on one layer."""

    layer_bytes: int
    """Read from disk for a layer."""
    reading_s: float
    """To load a layer, from disk or the page cache, and to quantise it if asked for."""
    running_s: float
    """Of a token in a layer that is loaded."""
    head_s: float
    """Of the logits of a position."""


def announce_eta(
    model: PreTrainedModel,
    title: str,
    paths: Sequence[LayerPath],
    memory_budget: MemoryBudget,
    *,
    passes: int,
    tokens: int,
    positions: int = 0,
) -> None:
    """Print how much is read from disk, and how long it takes; nothing for a model in memory.

    `tokens` run through the layers of all `paths`, and logits are computed at `positions` for each
    path. The timing is measured once per model.
    """
    if not runs_layer_by_layer(model) or not tokens:
        return
    every_layer = list(decoder_stack(model).layers)
    offloaded = {number for number, layer in enumerate(every_layer) if is_offloaded(layer)}
    holder: Any = model
    if "_layer_timing" not in vars(model):
        holder._layer_timing = _measure(model, min(offloaded), memory_budget)
    timing: LayerTiming = holder._layer_timing
    if not timing.layer_bytes:
        return  # offloaded to memory
    runs = layer_runs(paths)
    layers = len(offloaded & set().union(*paths))
    seconds = passes * layers * timing.reading_s + tokens * runs * timing.running_s
    seconds += positions * len(paths) * timing.head_s
    times = "once" if passes == 1 else f"{passes} times"
    say(
        f"{title}: {layers} of {len(every_layer)} layers of {_size(timing.layer_bytes)} are read "
        f"{times}, {_size(passes * layers * timing.layer_bytes)} in all, {timing.reading_s:.2g} s "
        f"each; {tokens} tokens run through {runs} layers, {timing.running_s:.2g} s each: about "
        f"{format_duration(seconds)}."
    )


def _measure(model: PreTrainedModel, number: int, memory_budget: MemoryBudget) -> LayerTiming:
    """Load a layer, and run it on some tokens twice, since the first run is slow."""
    layer = decoder_stack(model).layers[number]
    sequences = max(1, min(SEQUENCES, memory_budget.tokens // LENGTH))
    ids_BT = torch.zeros((sequences, LENGTH), dtype=torch.long, device=input_device(model))
    with torch.inference_mode():
        started = time.perf_counter()
        with materialized(layer):
            for weight in layer.parameters():
                weight.sum().item()  # mapped files are read when they are used
            reading_s = time.perf_counter() - started
            with partial_forward(model, [number]) as run:
                for _ in range(2):
                    started = time.perf_counter()
                    normed = run(ids=ids_BT).normed
                    normed.sum().item()  # waits for a GPU
                    running_s = time.perf_counter() - started
        head = Head(model, memory_budget.logits)
        states = normed.flatten(0, 1)[: head.positions_at_once]
        started = time.perf_counter()
        head(states).sum().item()
        head_s = time.perf_counter() - started
    return LayerTiming(
        bytes_on_disk(layer), reading_s, running_s / ids_BT.numel(), head_s / len(states)
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
