"""How well cut models predict text, all of them in one pass.

Letters: B batch, T time, H hidden size, S sequences, N positions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from layerprune.model.segment import Run
from layerprune.model.stack import Head
from layerprune.paths.scored import scored
from layerprune.paths.tree import Path, layer_runs
from layerprune.paths.walk import States, walk
from layerprune.progress import bar


def losses(
    model: PreTrainedModel, ids_ST: Tensor, batch_size: int, paths: Sequence[Path], title: str
) -> list[list[float]]:
    """By path, the mean next-token cross-entropy of each sequence, in nats."""
    found: list[list[float]] = [[] for _ in paths]
    batches = ids_ST.split(batch_size)
    with bar(title, total=layer_runs(paths) * len(batches)) as advance:
        for ids_BT in batches:  # one after another: the states of all would be held until the end
            walk(model, paths, [_Sequences(ids_BT.to(model.device), found)], advance=advance)
    return found


class _Sequences:
    """Sequences [B, T] of text, every token of which after the first is predicted."""

    def __init__(self, ids_BT: Tensor, found: list[list[float]]) -> None:
        """Each sequence's mean cross-entropy goes into `found`, by path."""
        self._ids_BT = ids_BT
        self._found = found

    def run(self, run: Run, before: DynamicCache | None, states: States) -> tuple[States, States]:
        """Sequences stand for themselves: nothing comes before them."""
        assert before is None
        out = run(state=states[0]) if states else run(ids=self._ids_BT)
        return (out.state,), (out.normed,)

    def end(self, head: Head, path: int, normed: States) -> None:
        """The losses of a path."""
        target_BT = self._ids_BT[:, 1:]
        normed_NH = normed[0][:, :-1].flatten(0, 1)
        logprob_N, _ = scored(head, normed_NH, target_BT.flatten(), torch.float32)
        self._found[path] += (-logprob_N).double().view(target_BT.shape).mean(dim=1).tolist()
