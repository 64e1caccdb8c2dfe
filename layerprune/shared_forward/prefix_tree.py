"""Pruned models as paths through the layers of one model, and the prefix tree that they form."""

from collections.abc import Sequence
from dataclasses import dataclass

LayerPath = tuple[int, ...]
"""The layers that a pruned model runs, in order."""


@dataclass(frozen=True)
class Branch:
    """Layers that run one after another, for every path that goes through them."""

    layers: LayerPath
    ends: tuple[int, ...]
    """Numbers of the paths that end after these layers; then nothing runs next."""
    branches: tuple["Branch", ...]
    """The branches that run next, from the state that these layers put out; shortest first."""

    @property
    def layer_runs(self) -> int:
        """Number of layers that run in this branch and those that follow it."""
        return len(self.layers) + sum(branch.layer_runs for branch in self.branches)


def build_prefix_tree(paths: Sequence[LayerPath]) -> tuple[Branch, ...]:
    """Return the tree in which layers that several `paths` begin with run once.

    A path's last layer runs for that path alone, even where other paths go on after it, so that
    its result is bit-identical whatever other paths there are. Every path has at least one layer.
    """
    return _build(list(enumerate(paths)))


def separate_branches(paths: Sequence[LayerPath]) -> tuple[Branch, ...]:
    """Return a tree in which every path is a separate branch."""
    return tuple(Branch(path, (number,), ()) for number, path in enumerate(paths))


def layer_runs(paths: Sequence[LayerPath]) -> int:
    """Return the number of layers that run in the prefix tree of `paths`."""
    return sum(branch.layer_runs for branch in build_prefix_tree(paths))


def max_live_branches(tree: Sequence[Branch], num_layers: int) -> int:
    """Return the most states per batch that a layer-by-layer pass holds (for one batch, one more).

    Branches that continue from the same state hold it once.
    """
    # (branch, index of its next layer, identity of its state)
    pending: list[tuple[Branch, int, object]] = [(branch, 0, None) for branch in tree]
    most = 1
    for layer in range(num_layers):
        due = [item for item in pending if item[0].layers[item[1]] == layer]
        pending = [item for item in pending if item[0].layers[item[1]] != layer]
        for done, (branch, index, _) in enumerate(due, start=1):
            state = object()
            if index + 1 < len(branch.layers):
                pending.append((branch, index + 1, state))
            else:
                pending += [(child, 0, state) for child in branch.branches]
            most = max(most, len({id(state) for *_, state in (*pending, *due[done:])}))
    return most


def common_prefix_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of equal items that two sequences begin with."""
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)


def _build(paths: list[tuple[int, LayerPath]]) -> tuple[Branch, ...]:
    by_first_layer: dict[tuple[int, bool], list[tuple[int, LayerPath]]] = {}
    for number, path in paths:
        by_first_layer.setdefault((path[0], len(path) == 1), []).append((number, path))
    branches = []
    for group in by_first_layer.values():
        members = [path for _, path in group]
        shared = common_prefix_length(min(members), max(members))  # in tuple order, furthest apart
        if any(len(path) > shared for _, path in group):
            shared = min(shared, *(len(path) - 1 for _, path in group))
        rest = [(number, path[shared:]) for number, path in group]
        branches.append(
            Branch(
                layers=group[0][1][:shared],
                ends=tuple(number for number, path in rest if not path),
                branches=_build([(number, path) for number, path in rest if path]),
            )
        )
    # Longest last: a traversal can free a state before it runs the last branch from it.
    return tuple(sorted(branches, key=lambda branch: branch.layer_runs))
