"""One forward pass through all paths of a model.

How it works:
1. The paths of all pruned models form a prefix tree; the output of a branch is the input of the
   branches that follow it. Each branch runs once, for all batches.
2. Within a branch, tokens that all batches in a row begin with run once, too.
3. If layers are offloaded, the pass goes layer by layer instead of branch by branch: a layer is
   loaded, runs in all branches that contain it, and is freed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from layerprune.model.offload import input_device, prefetching
from layerprune.model.partial_forward import (
    LayerRunner,
    partial_forward,
    runs_layer_by_layer,
    supports_partial_forward,
)
from layerprune.model.stack import Head, decoder_stack
from layerprune.shared_forward.memory_budget import MemoryBudget
from layerprune.shared_forward.prefix_tree import (
    Branch,
    LayerPath,
    build_prefix_tree,
    max_live_branches,
    separate_branches,
)
from layerprune.shared_forward.spill import BufferedStates, States, buffer_states, no_states

Ids = tuple[int, ...]


class Batch(Protocol):
    """A part of the work of a pass that runs through a layer at once."""

    tokens: int
    """Number of tokens that run."""
    prefix: Ids
    """Tokens before these, which run once for all batches in a row with the same prefix."""

    def run(
        self, run: LayerRunner, before: DynamicCache | None, states: States, last: bool
    ) -> tuple[States, States]:
        """Run a branch's layers; returns states, and the same after the final norm.

        `before` holds the prefix's keys and values. After the `last` branch of a path the states
        are not read.
        """

    def end(self, head: Head, path: int, normed: States) -> None:
        """Record the results of a path that is complete."""


@dataclass
class _PendingBranch:
    """A branch whose layers below `index` have run."""

    branch: Branch
    index: int
    prefixes: dict[Ids, Tensor]
    """By prefix of batches: its tokens, or its state."""
    states: list[BufferedStates]
    """Of each batch."""

    @property
    def next_layer(self) -> int:
        """The layer that runs next."""
        return self.branch.layers[self.index]


def traverse(
    model: PreTrainedModel,
    paths: Sequence[LayerPath],
    batches: Sequence[Batch],
    memory_budget: MemoryBudget,
    advance: Callable[[int], None] = lambda tokens: None,
) -> None:
    """Run all batches through all paths.

    `advance` is called with the number of tokens that have run, times the layers they ran through.
    """
    tree = build_prefix_tree(paths) if supports_partial_forward(model) else separate_branches(paths)
    device = input_device(model)
    prefixes = {
        batch.prefix: torch.tensor([batch.prefix], device=device)
        for batch in batches
        if batch.prefix
    }
    pending = [_PendingBranch(branch, 0, prefixes, [no_states] * len(batches)) for branch in tree]
    head = Head(model, memory_budget.logits)
    runner = _BranchRunner(model, head, batches, memory_budget.spill, advance)
    with torch.inference_mode():
        if runs_layer_by_layer(model):
            _run_by_layers(sorted(set().union(*paths)), pending, runner)
        else:
            _run_by_branches(pending, runner)


@dataclass
class _BranchRunner:
    """Runs all batches through layers of a branch."""

    model: PreTrainedModel
    head: Head
    batches: Sequence[Batch]
    spill: Path | None
    advance: Callable[[int], None]

    def run(self, run: LayerRunner, pending: _PendingBranch, layers: int) -> list[_PendingBranch]:
        """Run the next `layers` layers of a branch; returns what is pending after them."""
        branch = pending.branch
        ends = pending.index + layers == len(branch.layers)
        last = ends and not branch.branches
        prefix: Ids | None = None
        cache: DynamicCache | None = None
        prefixes: dict[Ids, Tensor] = {}
        states = list(pending.states)
        pending.states.clear()  # freed unless another branch starts from them
        for number, batch in enumerate(self.batches):
            if batch.prefix != prefix:
                prefix, cache = batch.prefix, None
                if prefix:
                    cache, prefixes[prefix] = _run_prefix(run, pending.prefixes[prefix], last)
            after, normed = batch.run(run, cache, states[number](), last)
            states[number] = no_states if last else buffer_states(after, self.spill)
            for path in branch.ends if ends else ():
                batch.end(self.head, path, normed)
            del after, normed
            self.advance(batch.tokens * layers)
        if not ends:
            return [_PendingBranch(branch, pending.index + layers, prefixes, states)]
        return [_PendingBranch(child, 0, prefixes, list(states)) for child in branch.branches]


def _run_by_branches(pending: Sequence[_PendingBranch], runner: _BranchRunner) -> None:
    stack = list(reversed(pending))
    while stack:
        branch = stack.pop()
        with partial_forward(runner.model, branch.branch.layers) as run:
            # Reversed, so that the longest runs last and frees the states first.
            stack += reversed(runner.run(run, branch, len(branch.branch.layers)))


def _run_by_layers(
    used: Sequence[int], pending: list[_PendingBranch], runner: _BranchRunner
) -> None:
    layers = list(decoder_stack(runner.model).layers)
    with prefetching(layers[number] for number in used) as loaded:
        for layer in used:
            due = [branch for branch in pending if branch.next_layer == layer]
            pending = [branch for branch in pending if branch.next_layer != layer]
            with loaded(layers[layer]), partial_forward(runner.model, [layer]) as run:
                for branch in due:
                    pending += runner.run(run, branch, 1)


def _run_prefix(run: LayerRunner, prefix: Tensor, last: bool) -> tuple[DynamicCache, Tensor]:
    """Run a prefix's tokens, or state, through the layers; returns its cache and its new state."""
    cache = DynamicCache()
    inputs = {"state": prefix} if prefix.is_floating_point() else {"ids": prefix}
    first = torch.zeros(1, dtype=torch.long, device=prefix.device)  # at least one position must run
    return cache, run(**inputs, cache=cache, positions=(first, first) if last else None).state


def max_buffered_states(model: PreTrainedModel, paths: Sequence[LayerPath]) -> int:
    """Return how many states per batch `traverse` holds at most (for one batch, one more)."""
    tree = build_prefix_tree(paths)
    if runs_layer_by_layer(model):
        return max_live_branches(tree, len(decoder_stack(model).layers))
    return _max_buffered_by_branches(tree)


def _max_buffered_by_branches(branches: Sequence[Branch]) -> int:
    # The input state is held until the last branch has read it.
    return max(
        (
            max(1, (number < len(branches)) + _max_buffered_by_branches(branch.branches))
            for number, branch in enumerate(branches, start=1)
        ),
        default=0,
    )
