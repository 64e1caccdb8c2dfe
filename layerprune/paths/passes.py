"""What passes over a model whose layers are read from disk will take, said before they start.

Letters: B batch, T time.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from layerprune.model.segment import by_layers, segment
from layerprune.model.spread import bytes_on_disk, input_device, resident, waits
from layerprune.model.stack import Head, decoder_stack
from layerprune.paths.room import Room
from layerprune.paths.tree import Path, layer_runs
from layerprune.progress import say, spoken

ROWS, LENGTH = 16, 16
"""Sequences of a trial, and their tokens, which any model's window has room for."""


@dataclass(frozen=True)
class Speed:
    """Of a model on this machine, measured on one layer."""

    layer_bytes: int
    """That are read."""
    reading_s: float
    """A layer: from disk or from what the system has cached of it, and into its form."""
    running_s: float
    """A token in a layer that is there."""
    head_s: float
    """The logits of a position."""


_measured: WeakKeyDictionary[PreTrainedModel, Speed] = WeakKeyDictionary()


def announce(
    model: PreTrainedModel,
    what: str,
    paths: Sequence[Path],
    room: Room,
    *,
    passes: int,
    tokens: int,
    positions: int = 0,
) -> None:
    """Say how much is read, and about how long it takes; nothing of a model that is in memory.

    `tokens` go through the layers of all `paths`, and logits are made of `positions` for each.
    """
    if not by_layers(model) or not tokens:
        return
    every_layer = list(decoder_stack(model).layers)
    away = {at for at, layer in enumerate(every_layer) if waits(layer)}
    speed = _measured.get(model)
    if speed is None:
        speed = _measured[model] = _measure(model, min(away), room)
    if not speed.layer_bytes:
        return  # they wait in memory
    num_layers, runs = len(every_layer), layer_runs(paths)
    layers = len(away & set().union(*paths))
    seconds = passes * layers * speed.reading_s + tokens * runs * speed.running_s
    seconds += positions * len(paths) * speed.head_s
    times = "once" if passes == 1 else f"{passes} times"
    say(
        f"{what}: {layers} of {num_layers} layers of {_size(speed.layer_bytes)} are read {times}, "
        f"{_size(passes * layers * speed.layer_bytes)} in all, {speed.reading_s:.2g} s each; "
        f"{tokens} tokens run through {runs} layers, {speed.running_s:.2g} s each: about "
        f"{spoken(seconds)}."
    )


def _measure(model: PreTrainedModel, number: int, room: Room) -> Speed:
    """Read a layer, and run it on some tokens, twice: the first time is slow."""
    layer = decoder_stack(model).layers[number]
    rows = max(1, min(ROWS, room.tokens // LENGTH))
    ids_BT = torch.zeros((rows, LENGTH), dtype=torch.long, device=input_device(model))
    with torch.inference_mode():
        started = time.perf_counter()
        with resident(layer):
            for weight in layer.parameters():
                weight.sum().item()  # mapped files are read when they are used
            reading_s = time.perf_counter() - started
            with segment(model, [number]) as run:
                seconds = []
                for _ in range(2):
                    started = time.perf_counter()
                    normed = run(ids=ids_BT).normed
                    normed.sum().item()  # a GPU answers before it is done
                    seconds.append(time.perf_counter() - started)
        head = Head(model, room.logits)
        some = normed.flatten(0, 1)[: head.positions_at_once]
        started = time.perf_counter()
        head(some).sum().item()
        head_s = time.perf_counter() - started
    return Speed(bytes_on_disk(layer), reading_s, seconds[-1] / ids_BT.numel(), head_s / len(some))


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
