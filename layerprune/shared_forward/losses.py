"""Measure how well pruned models predict text, all of them in one pass.

Letters: B batch, T time, S sequences.
"""

from collections.abc import Sequence

from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from layerprune.model.offload import input_device
from layerprune.model.partial_forward import LayerRunner, runs_layer_by_layer
from layerprune.model.stack import Head
from layerprune.runtime.progress import progress_bar
from layerprune.shared_forward.logprobs import next_token_nats
from layerprune.shared_forward.memory_budget import MemoryBudget, halved
from layerprune.shared_forward.prefix_tree import LayerPath, layer_runs
from layerprune.shared_forward.spill import States
from layerprune.shared_forward.streaming_eta import announce_eta
from layerprune.shared_forward.traversal import Ids, max_buffered_states, traverse


def sequence_losses(
    model: PreTrainedModel,
    ids_ST: Tensor,
    paths: Sequence[LayerPath],
    title: str,
    memory_budget: MemoryBudget,
) -> list[list[float]]:
    """Return, by path, the mean next-token cross-entropy of each sequence, in nats."""
    losses: list[list[float]] = [[] for _ in paths]
    length = ids_ST.shape[1]
    _, per_pass = _sizes(model, paths, memory_budget, length)
    announce_eta(
        model, title, paths, memory_budget,
        passes=-(-len(ids_ST) // per_pass), tokens=ids_ST.numel(), positions=ids_ST[:, 1:].numel(),
    )  # fmt: skip
    with progress_bar(title, total=layer_runs(paths) * len(ids_ST)) as advance:
        done = 0
        while done < len(ids_ST):
            size, per_pass = _sizes(model, paths, memory_budget, length)
            ids_PT = ids_ST[done : done + per_pass]
            batches = [
                _Sequences(ids_BT.to(input_device(model)), len(paths))
                for ids_BT in ids_PT.split(size)
            ]
            try:
                traverse(model, paths, batches, memory_budget)
            except RuntimeError as error:
                memory_budget = halved(memory_budget, error)
                continue
            for batch in batches:
                for path_losses, batch_losses in zip(losses, batch.losses, strict=True):
                    path_losses += batch_losses
            done += len(ids_PT)
            advance(layer_runs(paths) * len(ids_PT))
    return losses


def _sizes(
    model: PreTrainedModel, paths: Sequence[LayerPath], memory_budget: MemoryBudget, length: int
) -> tuple[int, int]:
    """Return how many sequences are a batch, at least one, and how many share a pass."""
    size = max(1, memory_budget.tokens // length)
    if not runs_layer_by_layer(model):
        return size, size
    # As many as possible, since every pass reads all weights again, and buffers all states.
    states = max_buffered_states(model, paths) + 1
    return size, size * max(1, memory_budget.buffered_tokens // (size * length * states))


class _Sequences:
    """A batch of sequences [B, T] of text, in which every token after the first is predicted."""

    prefix: Ids = ()

    def __init__(self, ids_BT: Tensor, num_paths: int) -> None:
        self.tokens = ids_BT.numel()
        self.losses: list[list[float]] = [[] for _ in range(num_paths)]
        """By path, each sequence's mean cross-entropy."""
        self._ids_BT = ids_BT

    def run(
        self, run: LayerRunner, before: DynamicCache | None, states: States, last: bool
    ) -> tuple[States, States]:
        """Run a branch on all sequences at once."""
        out = run(state=states[0]) if states else run(ids=self._ids_BT)
        return (out.state,), (out.normed,)

    def end(self, head: Head, path: int, normed: States) -> None:
        """Record the losses of a path."""
        nats_BT = next_token_nats(head, normed[0], self._ids_BT)
        self.losses[path] += nats_BT.mean(dim=1).tolist()
