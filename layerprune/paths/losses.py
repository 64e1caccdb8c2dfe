"""How well cut models predict text, all of them in one pass.

Letters: B batch, T time, H hidden size, S sequences, N positions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from layerprune.model.segment import Run, by_layers
from layerprune.model.spread import input_device
from layerprune.model.stack import Head
from layerprune.paths.passes import announce
from layerprune.paths.room import Room, smaller
from layerprune.paths.scored import scored
from layerprune.paths.tree import Path, layer_runs
from layerprune.paths.waiting import States
from layerprune.paths.walk import Ids, most_waiting, walk
from layerprune.progress import bar


def losses(
    model: PreTrainedModel, ids_ST: Tensor, paths: Sequence[Path], title: str, room: Room
) -> list[list[float]]:
    """By path, the mean next-token cross-entropy of each sequence, in nats."""
    found: list[list[float]] = [[] for _ in paths]
    length = ids_ST.shape[1]
    at_once = _batch(room, length) * _together(model, paths, room, length)
    announce(
        model, title, paths, room,
        passes=-(-len(ids_ST) // at_once), tokens=ids_ST.numel(), positions=ids_ST[:, 1:].numel(),
    )  # fmt: skip
    with bar(title, total=layer_runs(paths) * len(ids_ST)) as advance:
        done = 0
        while done < len(ids_ST):
            count = _batch(room, length)
            wave = ids_ST[done : done + count * _together(model, paths, room, length)]
            parts = [
                _Sequences(ids_BT.to(input_device(model)), len(paths))
                for ids_BT in wave.split(count)
            ]
            try:
                walk(model, paths, parts, room)
            except RuntimeError as error:
                room = smaller(room, error)
                continue
            for part in parts:
                for of_path, some in zip(found, part.found, strict=True):
                    of_path += some
            done += len(wave)
            advance(layer_runs(paths) * len(wave))
    return found


def _batch(room: Room, length: int) -> int:
    """How many sequences run together: one of more tokens than there is room for runs alone."""
    return max(1, room.tokens // length)


def _together(model: PreTrainedModel, paths: Sequence[Path], room: Room, length: int) -> int:
    """How many batches run in one pass: the states of all are held until its end."""
    if not by_layers(model):
        return 1
    # Every pass reads all weights again.
    tokens = _batch(room, length) * length
    return max(1, room.waiting // (tokens * (most_waiting(model, paths) + 1)))


class _Sequences:
    """Sequences [B, T] of text, every token of which after the first is predicted."""

    prefix: Ids = ()
    """Sequences stand for themselves: nothing comes before them."""

    def __init__(self, ids_BT: Tensor, num_paths: int) -> None:
        self.tokens = ids_BT.numel()
        self.found: list[list[float]] = [[] for _ in range(num_paths)]
        """By path, each sequence's mean cross-entropy."""
        self._ids_BT = ids_BT

    def run(
        self, run: Run, before: DynamicCache | None, states: States, last: bool
    ) -> tuple[States, States]:
        """All sequences at once."""
        out = run(state=states[0]) if states else run(ids=self._ids_BT)
        return (out.state,), (out.normed,)

    def end(self, head: Head, path: int, normed: States) -> None:
        """The losses of a path."""
        target_BT = self._ids_BT[:, 1:]
        normed_NH = normed[0][:, :-1].flatten(0, 1)
        position_N = torch.arange(len(normed_NH), device=normed_NH.device)
        logprob_N, _ = scored(head, normed_NH, position_N, target_BT.flatten(), torch.float32)
        self.found[path] += (-logprob_N).double().view(target_BT.shape).mean(dim=1).tolist()
