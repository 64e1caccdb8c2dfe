"""A pass through all paths of a model: each branch of their tree runs once, for all batches.

Where the weights of layers wait elsewhere until they are used, the pass goes by layers instead: one
is read, runs in all branches that have it, and is let go of.

Cut models of one model run the same layers up to their cuts, with the same weights on the same
text. Their paths through the layers form a tree (`tree.grow`); what a branch puts out goes on into
the branches above it. Within a branch, the tokens that all batches begin with run once, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from layerprune.model.segment import Run, runs_in_parts, segment
from layerprune.model.spread import input_device, layers_wait, resident
from layerprune.model.stack import Head, decoder_stack
from layerprune.paths.room import Room
from layerprune.paths.tree import Branch, Path, apart, grow

Ids = tuple[int, ...]

States = tuple[Tensor, ...]
"""What a batch holds between two branches; () before the first."""


class Batch(Protocol):
    """Some of the work of a pass, small enough to be done at once."""

    tokens: int
    """How many run."""

    def run(
        self, run: Run, before: DynamicCache | None, states: States, last: bool
    ) -> tuple[States, States]:
        """Run a branch's layers; returns states, and the same after the final norm.

        `before` has the keys and values of what comes before. After the `last` branch of its paths
        nobody reads the states.
        """

    def end(self, head: Head, path: int, normed: States) -> None:
        """Take what a path that is complete has to say."""


def walk(
    model: PreTrainedModel,
    paths: Sequence[Path],
    batches: Sequence[Batch],
    room: Room,
    prefix: Ids = (),
    advance: Callable[[int], None] = lambda tokens: None,
) -> None:
    """Do all batches for all paths; `prefix` are the tokens that come before each of them.

    `advance` is told of each token that has run through a layer of a batch.
    """
    head = Head(model, room.logits)
    in_parts = runs_in_parts(model)
    tree = grow(paths) if in_parts else apart(paths)
    start = torch.tensor([prefix], device=input_device(model)) if prefix else None
    if in_parts and layers_wait(model):
        with torch.inference_mode():
            _by_layers(model, head, tree, batches, start, advance)
        return
    stack: list[tuple[Branch, Tensor | None, list[States]]] = [
        (branch, start, [()] * len(batches)) for branch in reversed(tree)
    ]
    with torch.inference_mode():
        while stack:
            branch, before, entering = stack.pop()
            states = list(entering)
            del entering  # kept only where another branch waits for it
            with segment(model, branch.layers) as run:
                last = not branch.branches
                cache, prefix_after = _prefix(run, before, last)
                for at, batch in enumerate(batches):
                    after, normed = batch.run(run, cache, states[at], last)
                    states[at] = () if last else after
                    for path in branch.ends:
                        batch.end(head, path, normed)
                    del after, normed
                    advance(batch.tokens * len(branch.layers))
            # The last one first: it is the longest, and needs the states last.
            stack += [(each, prefix_after, states) for each in reversed(branch.branches)]


@dataclass
class _Alive:
    """A branch whose layers below `at` have run."""

    branch: Branch
    at: int
    before: Tensor | None
    states: list[States]

    @property
    def layer(self) -> int:
        """The one that is next."""
        return self.branch.layers[self.at]


def _by_layers(
    model: PreTrainedModel,
    head: Head,
    tree: Sequence[Branch],
    batches: Sequence[Batch],
    start: Tensor | None,
    advance: Callable[[int], None],
) -> None:
    alive = [_Alive(branch, 0, start, [()] * len(batches)) for branch in tree]
    for layer, part in enumerate(list(decoder_stack(model).layers)):
        now = [each for each in alive if each.layer == layer]
        if not now:
            continue
        alive = [each for each in alive if each.layer != layer]
        with resident(part), segment(model, [layer]) as run:
            for each in now:
                branch = each.branch
                ends = each.at + 1 == len(branch.layers)
                last = ends and not branch.branches
                cache, before = _prefix(run, each.before, last)
                for at, batch in enumerate(batches):
                    after, normed = batch.run(run, cache, each.states[at], last)
                    each.states[at] = () if last else after
                    for path in branch.ends if ends else ():
                        batch.end(head, path, normed)
                    del after, normed
                    advance(batch.tokens)
                if not ends:
                    alive.append(_Alive(branch, each.at + 1, before, each.states))
                    continue
                alive += [_Alive(some, 0, before, list(each.states)) for some in branch.branches]


def most_waiting(model: PreTrainedModel, paths: Sequence[Path]) -> int:
    """How many states of each batch `walk` holds at once, at most; of one batch, one more."""
    tree = grow(paths)
    if runs_in_parts(model) and layers_wait(model):
        return _most_alive(tree, len(decoder_stack(model).layers))
    return _most_waiting(tree)


def _most_alive(tree: Sequence[Branch], num_layers: int) -> int:
    """The same of a pass by layers. Branches that go on from one state hold it once."""
    alive: list[tuple[Branch, int, object]] = [(branch, 0, None) for branch in tree]
    most = 1
    for layer in range(num_layers):
        now = [each for each in alive if each[0].layers[each[1]] == layer]
        alive = [each for each in alive if each[0].layers[each[1]] != layer]
        for done, (branch, at, _) in enumerate(now, start=1):
            state = object()
            if at + 1 < len(branch.layers):
                alive.append((branch, at + 1, state))
            else:
                alive += [(some, 0, state) for some in branch.branches]
            most = max(most, len({id(state) for *_, state in (*alive, *now[done:])}))
    return most


def _most_waiting(branches: Sequence[Branch]) -> int:
    # What comes in is held until the last branch has taken it.
    return max(
        (
            max(1, (at < len(branches)) + _most_waiting(branch.branches))
            for at, branch in enumerate(branches, start=1)
        ),
        default=0,
    )


def _prefix(
    run: Run, before: Tensor | None, last: bool
) -> tuple[DynamicCache | None, Tensor | None]:
    """Keys and values of what comes before in these layers, and the state it leaves them in."""
    if before is None:
        return None, None
    cache = DynamicCache()
    given = {"state": before} if before.is_floating_point() else {"ids": before}
    nowhere = torch.zeros(1, dtype=torch.long, device=before.device)  # a single position, at least
    return cache, run(**given, cache=cache, where=(nowhere, nowhere) if last else None).state
