"""Contexts and their options as trees of tokens, in which common prefixes occur once."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from layerprune.evaluate.request_groups import Context, Ids, pack


class ScoredOption(NamedTuple):
    """An option in a tree."""

    request: int
    nodes: tuple[int, ...]
    """For each token of the option, the node whose state predicts it."""
    tokens: Ids


class TokenTree:
    """A tree of tokens: each follows its ancestors. Parents are numbered before their children."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.parents: list[int] = []
        """-1 for a root."""
        self.depths: list[int] = []
        """Number of ancestors."""
        self.options: list[ScoredOption] = []
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, context: Context) -> None:
        """Add the nodes of a context that are missing, and its options."""
        last = self._nodes(-1, context.ids)[-1]
        for option in context.options:
            nodes = (last, *self._nodes(last, option.ids[:-1]))
            self.options.append(ScoredOption(option.request, nodes, option.ids))

    def max_new_nodes(self, context: Context) -> int:
        """Return an upper bound of the nodes that a context would add."""
        node, shared = -1, 0
        for token in context.ids:
            node = self._children.get((node, token), -2)
            if node == -2:
                break
            shared += 1
        return context.num_tokens - shared

    def _nodes(self, parent: int, ids: Ids) -> list[int]:
        """Return the nodes of a chain of tokens below `parent`, creating those that are missing."""
        nodes = []
        for token in ids:
            child = self._children.setdefault((parent, token), len(self.ids))
            if child == len(self.ids):
                self.ids.append(token)
                self.parents.append(parent)
                self.depths.append(self.depths[parent] + 1 if parent >= 0 else 0)
            nodes.append(child)
            parent = child
        return nodes


def token_trees(contexts: Sequence[Context], limit: int) -> list[TokenTree]:
    """Return the contexts in trees of about `limit` tokens at most, the largest first.

    A larger context is one tree, or several with some of its options each.
    """
    trees: list[TokenTree] = []
    # Sorted contexts with a common prefix are neighbours.
    for context in sorted(contexts, key=lambda context: context.ids):
        for options in pack(
            context.options, lambda option: len(option.ids) - 1, limit - len(context.ids)
        ):
            part = Context(context.ids, tuple(options))
            if not trees or len(trees[-1]) + trees[-1].max_new_nodes(part) > limit:
                trees.append(TokenTree())
            trees[-1].add(part)
    return sorted(trees, key=len, reverse=True)


def unbranched_trees(contexts: Sequence[Context]) -> list[TokenTree]:
    """Return the contexts in trees without branches, the largest first.

    Options share a tree if they differ in their last token only.
    """
    trees = []
    for context in contexts:
        options = sorted(context.options, key=lambda option: option.ids[:-1])
        for _, alike in groupby(options, lambda option: option.ids[:-1]):
            trees.append(TokenTree())
            trees[-1].add(Context(context.ids, tuple(alike)))
    return sorted(trees, key=len, reverse=True)


def batches(
    trees: Sequence[TokenTree], max_rows: Callable[[int], int]
) -> Iterator[list[TokenTree]]:
    """Yield batches of at most `max_rows` trees, given the number of tokens of the largest.

    `trees` has the largest first, so that neighbours need little padding.
    """
    batch: list[TokenTree] = []
    for tree in trees:
        if batch and len(batch) >= max_rows(len(batch[0])):
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch
