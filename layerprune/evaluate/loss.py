"""How well models predict held-out text.

Letters: B batch, T time, H hidden size, S sequences.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from layerprune.evaluate.shared import POSITIONS_AT_ONCE, States, walk
from layerprune.evaluate.tree import Path, layer_runs
from layerprune.model.segment import Run
from layerprune.model.stack import Head, decoder_stack
from layerprune.progress import bar


@dataclass(frozen=True)
class Loss:
    """Mean next-token cross-entropy over sequences."""

    nats: float
    """Per token."""
    normalised: float
    """Divided by ln V: 1 is guessing evenly (Gromov et al., arXiv 2403.17887, figure 3)."""
    stderr: float
    """Standard error of `nats` over sequences; 0 for a single one."""
    num_sequences: int


def heldout_loss(model: PreTrainedModel, ids_ST: Tensor, batch_size: int) -> Loss:
    """The loss of a model on token sequences [S, T]: every token after the first is predicted.

    T must be at least 2.
    """
    every_layer = tuple(range(len(decoder_stack(model).layers)))
    return heldout_losses(model, ids_ST, batch_size, [every_layer])[0]


def heldout_losses(
    model: PreTrainedModel, ids_ST: Tensor, batch_size: int, paths: Sequence[Path]
) -> list[Loss]:
    """The losses of cut models, each of which keeps the layers of a path, in one pass."""
    found: list[list[float]] = [[] for _ in paths]
    batches = ids_ST.split(batch_size)
    with bar("held-out loss", total=layer_runs(paths) * len(batches)) as advance:
        for ids_BT in batches:  # one after another: the states of all would be held until the end
            walk(model, paths, [_Sequences(ids_BT.to(model.device), found)], advance=advance)
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    return [_loss(means, vocabulary) for means in found]


def _loss(means: Sequence[float], vocabulary: int) -> Loss:
    count = len(means)
    mean = math.fsum(means) / count
    spread = math.fsum((value - mean) ** 2 for value in means)
    return Loss(
        nats=mean,
        normalised=mean / math.log(vocabulary),
        stderr=math.sqrt(spread / (count - 1) / count) if count > 1 else 0.0,
        num_sequences=count,
    )


class _Sequences:
    """Sequences [B, T] of text, every token of which after the first is predicted."""

    def __init__(self, ids_BT: Tensor, found: list[list[float]]) -> None:
        """Each sequence's mean cross-entropy, in nats, goes into `found`, by path."""
        self._ids_BT = ids_BT
        self._found = found

    def run(self, run: Run, before: DynamicCache | None, states: States) -> tuple[States, States]:
        """Sequences stand for themselves: nothing comes before them."""
        assert before is None
        out = run(state=states[0]) if states else run(ids=self._ids_BT)
        return (out.state,), (out.normed,)

    def end(self, head: Head, path: int, normed: States) -> None:
        """The loss of a path."""
        target_BT = self._ids_BT[:, 1:]
        nats_N = torch.cat(
            [
                torch.nn.functional.cross_entropy(head(hidden).float(), target, reduction="none")
                for hidden, target in zip(
                    normed[0][:, :-1].flatten(0, 1).split(POSITIONS_AT_ONCE),
                    target_BT.flatten().split(POSITIONS_AT_ONCE),
                    strict=True,
                )
            ]
        )
        self._found[path] += nats_N.double().view(target_BT.shape).mean(dim=1).tolist()
