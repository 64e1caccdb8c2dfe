"""How well cut models predict text, all of them in one pass.

Letters: B batch, T time, H hidden size, S sequences, N positions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from layerprune.model.segment import Run
from layerprune.model.spread import input_device
from layerprune.model.stack import Head
from layerprune.paths.room import Room, smaller
from layerprune.paths.scored import scored
from layerprune.paths.tree import Path, layer_runs
from layerprune.paths.walk import States, walk
from layerprune.progress import bar


def losses(
    model: PreTrainedModel, ids_ST: Tensor, paths: Sequence[Path], title: str, room: Room
) -> list[list[float]]:
    """By path, the mean next-token cross-entropy of each sequence, in nats."""
    found: list[list[float]] = [[] for _ in paths]
    with bar(title, total=layer_runs(paths) * len(ids_ST)) as advance:
        done = 0
        while done < len(ids_ST):
            # One batch after another: the states of all would be held until the end.
            count = max(1, room.tokens // ids_ST.shape[1])
            ids_BT = ids_ST[done : done + count].to(input_device(model))
            new: list[list[float]] = [[] for _ in paths]
            try:
                walk(model, paths, [_Sequences(ids_BT, new)], room)
            except RuntimeError as error:
                room = smaller(room, error)
                continue
            for of_path, some in zip(found, new, strict=True):
                of_path += some
            done += len(ids_BT)
            advance(layer_runs(paths) * len(ids_BT))
    return found


class _Sequences:
    """Sequences [B, T] of text, every token of which after the first is predicted."""

    def __init__(self, ids_BT: Tensor, found: list[list[float]]) -> None:
        """Each sequence's mean cross-entropy goes into `found`, by path."""
        self.tokens = ids_BT.numel()
        self._ids_BT = ids_BT
        self._found = found

    def run(
        self, run: Run, before: DynamicCache | None, states: States, last: bool
    ) -> tuple[States, States]:
        """Sequences stand for themselves: nothing comes before them."""
        assert before is None
        out = run(state=states[0]) if states else run(ids=self._ids_BT)
        return (out.state,), (out.normed,)

    def end(self, head: Head, path: int, normed: States) -> None:
        """The losses of a path."""
        target_BT = self._ids_BT[:, 1:]
        normed_NH = normed[0][:, :-1].flatten(0, 1)
        position_N = torch.arange(len(normed_NH), device=normed_NH.device)
        logprob_N, _ = scored(head, normed_NH, position_N, target_BT.flatten(), torch.float32)
        self._found[path] += (-logprob_N).double().view(target_BT.shape).mean(dim=1).tolist()
