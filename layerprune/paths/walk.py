"""A pass through all paths of a model: each branch of their tree runs once, for all batches.

Where the weights of layers wait elsewhere until they are used, the pass goes by layers instead: one
is read, runs in all branches that have it, and is let go of.

Cut models of one model run the same layers up to their cuts, with the same weights on the same
text. Their paths through the layers form a tree (`tree.grow`); what a branch puts out goes on into
the branches above it. Within a branch, the tokens that all batches begin with run once, too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from layerprune.model.segment import Run, by_layers, runs_in_parts, segment
from layerprune.model.spread import input_device, reading_ahead
from layerprune.model.stack import Head, decoder_stack
from layerprune.paths.room import Room
from layerprune.paths.tree import Branch, Path, apart, grow, most_alive
from layerprune.paths.waiting import Kept, States, keep, nothing

Ids = tuple[int, ...]


class Batch(Protocol):
    """Some of the work of a pass, small enough to be done at once."""

    tokens: int
    """How many run."""
    prefix: Ids
    """What comes before them, and runs once for all batches in a row that have the same."""

    def run(
        self, run: Run, before: DynamicCache | None, states: States, last: bool
    ) -> tuple[States, States]:
        """Run a branch's layers; returns states, and the same after the final norm.

        `before` has the keys and values of what comes before. After the `last` branch of its paths
        nobody reads the states.
        """

    def end(self, head: Head, path: int, normed: States) -> None:
        """Take what a path that is complete has to say."""


@dataclass
class _Alive:
    """A branch whose layers below `at` have run."""

    branch: Branch
    at: int
    before: dict[Ids, Tensor]
    """By what comes before batches: its tokens, or the state that it is in."""
    states: list[Kept]
    """Of each batch."""

    @property
    def layer(self) -> int:
        """The one that is next."""
        return self.branch.layers[self.at]


def walk(
    model: PreTrainedModel,
    paths: Sequence[Path],
    batches: Sequence[Batch],
    room: Room,
    advance: Callable[[int], None] = lambda tokens: None,
) -> None:
    """Do all batches for all paths.

    `advance` is told of each token that has run through a layer of a batch.
    """
    tree = grow(paths) if runs_in_parts(model) else apart(paths)
    place = input_device(model)
    start = {
        batch.prefix: torch.tensor([batch.prefix], device=place)
        for batch in batches
        if batch.prefix
    }
    alive = [_Alive(branch, 0, start, [nothing] * len(batches)) for branch in tree]
    work = _Pass(model, batches, room, advance)
    with torch.inference_mode():
        if by_layers(model):
            _by_layers(model, alive, work)
        else:
            _by_branches(model, alive, work)


@dataclass
class _Pass:
    """What is done in each part of the tree."""

    model: PreTrainedModel
    batches: Sequence[Batch]
    room: Room
    advance: Callable[[int], None]

    def __post_init__(self) -> None:
        self._head = Head(self.model, self.room.logits)

    def run(self, run: Run, each: _Alive, layers: int) -> list[_Alive]:
        """Run so many layers of a branch for all batches; what goes on from there."""
        branch = each.branch
        ends = each.at + layers == len(branch.layers)
        last = ends and not branch.branches
        prefix: Ids | None = None
        cache: DynamicCache | None = None
        before: dict[Ids, Tensor] = {}
        states = list(each.states)
        each.states.clear()  # kept only where another branch waits for it
        for at, batch in enumerate(self.batches):
            if batch.prefix != prefix:
                prefix, cache = batch.prefix, None
                if prefix:
                    cache, before[prefix] = _prefix(run, each.before[prefix], last)
            after, normed = batch.run(run, cache, states[at](), last)
            states[at] = nothing if last else keep(after, self.room.spill)
            for path in branch.ends if ends else ():
                batch.end(self._head, path, normed)
            del after, normed
            self.advance(batch.tokens * layers)
        if not ends:
            return [_Alive(branch, each.at + layers, before, states)]
        return [_Alive(some, 0, before, list(states)) for some in branch.branches]


def _by_branches(model: PreTrainedModel, alive: Sequence[_Alive], work: _Pass) -> None:
    stack = list(reversed(alive))
    while stack:
        each = stack.pop()
        with segment(model, each.branch.layers) as run:
            # The last one first: it is the longest, and needs the states last.
            stack += reversed(work.run(run, each, len(each.branch.layers)))


def _by_layers(model: PreTrainedModel, alive: list[_Alive], work: _Pass) -> None:
    layers = list(decoder_stack(model).layers)
    used = sorted({layer for each in alive for layer in _layers(each.branch)})
    with reading_ahead(layers[number] for number in used) as read:
        for layer in used:
            now = [each for each in alive if each.layer == layer]
            alive = [each for each in alive if each.layer != layer]
            with read(layers[layer]), segment(model, [layer]) as run:
                for each in now:
                    alive += work.run(run, each, 1)


def _layers(branch: Branch) -> Iterator[int]:
    yield from branch.layers
    for each in branch.branches:
        yield from _layers(each)


def most_waiting(model: PreTrainedModel, paths: Sequence[Path]) -> int:
    """How many states of each batch `walk` holds at once, at most; of one batch, one more."""
    tree = grow(paths)
    if by_layers(model):
        return most_alive(tree, len(decoder_stack(model).layers))
    return _most_waiting(tree)


def _most_waiting(branches: Sequence[Branch]) -> int:
    # What comes in is held until the last branch has taken it.
    return max(
        (
            max(1, (at < len(branches)) + _most_waiting(branch.branches))
            for at, branch in enumerate(branches, start=1)
        ),
        default=0,
    )


def _prefix(run: Run, before: Tensor, last: bool) -> tuple[DynamicCache, Tensor]:
    """Keys and values of what comes before in these layers, and the state it leaves them in."""
    cache = DynamicCache()
    given = {"state": before} if before.is_floating_point() else {"ids": before}
    nowhere = torch.zeros(1, dtype=torch.long, device=before.device)  # a single position, at least
    return cache, run(**given, cache=cache, where=(nowhere, nowhere) if last else None).state
