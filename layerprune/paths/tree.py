"""Cut models as paths through the layers of one model, and what these paths share."""

from collections.abc import Sequence
from dataclasses import dataclass

Path = tuple[int, ...]
"""The layers that a cut model runs, in order."""


@dataclass(frozen=True)
class Branch:
    """Layers that run one after another, for every path that goes through them."""

    layers: Path
    ends: tuple[int, ...]
    """Which paths, by their number, are complete after these layers: then nothing runs next."""
    branches: tuple["Branch", ...]
    """What runs next, from the state that these layers put out; shortest first."""

    @property
    def layer_runs(self) -> int:
        """How many times a layer runs in this branch and those above it."""
        return len(self.layers) + sum(branch.layer_runs for branch in self.branches)


def grow(paths: Sequence[Path]) -> tuple[Branch, ...]:
    """The fewest layer executions that cover all `paths`: what begins alike runs once.

    But for a path's last layer, where others go on after it: it runs for the path alone then, as it
    would without the others, so that no answer depends on what else is asked. Every path has at
    least one layer.
    """
    return _grow(list(enumerate(paths)))


def apart(paths: Sequence[Path]) -> tuple[Branch, ...]:
    """Every path on its own, from its beginning to its end."""
    return tuple(Branch(path, (number,), ()) for number, path in enumerate(paths))


def layer_runs(paths: Sequence[Path]) -> int:
    """How many times a layer runs where `paths` share what they can."""
    return sum(branch.layer_runs for branch in grow(paths))


def most_alive(tree: Sequence[Branch], num_layers: int) -> int:
    """How many states of each batch a pass by layers holds at once; of one batch, one more.

    Branches that go on from one state hold it once.
    """
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


def _grow(paths: list[tuple[int, Path]]) -> tuple[Branch, ...]:
    beginnings: dict[tuple[int, bool], list[tuple[int, Path]]] = {}
    for number, path in paths:
        beginnings.setdefault((path[0], len(path) == 1), []).append((number, path))
    branches = []
    for same in beginnings.values():
        shared = _common([path for _, path in same])
        if any(len(path) > shared for _, path in same):
            shared = min(shared, *(len(path) - 1 for _, path in same))
        rest = [(number, path[shared:]) for number, path in same]
        branches.append(
            Branch(
                layers=same[0][1][:shared],
                ends=tuple(number for number, path in rest if not path),
                branches=_grow([(number, path) for number, path in rest if path]),
            )
        )
    # The longest last: whoever walks the tree can let go of a state before it goes on with that.
    return tuple(sorted(branches, key=lambda branch: branch.layer_runs))


def _common(paths: Sequence[Path]) -> int:
    """How many layers all paths begin with."""
    shortest, longest = min(paths), max(paths)  # in the order of tuples: these two differ first
    count = 0
    for one, other in zip(shortest, longest, strict=False):
        if one != other:
            break
        count += 1
    return count
