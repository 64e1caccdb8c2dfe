"""Contexts and their options as rows of tokens, in which whatever begins alike stands once."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from layerprune.evaluate.contexts import Context, Ids, Option


class Asked(NamedTuple):
    """A request whose answer a row has."""

    request: int
    nodes: tuple[int, ...]
    """For each token of the option, the node whose state predicts it."""
    tokens: Ids


class Row:
    """A tree of tokens, each of which follows its parent, and those before that.

    Nodes are numbered so that a parent comes before its children.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.parents: list[int] = []
        """-1 for a token that nothing in the row comes before."""
        self.depths: list[int] = []
        """How many tokens of the row come before a node."""
        self.asked: list[Asked] = []
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, context: Context) -> None:
        """Add what is not there yet."""
        last = self._nodes(-1, context.ids)[-1]
        for option in context.options:
            nodes = (last, *self._nodes(last, option.ids[:-1]))
            self.asked.append(Asked(option.request, nodes, option.ids))

    def num_new(self, context: Context) -> int:
        """How many tokens a context would add, at most."""
        node, shared = -1, 0
        for token in context.ids:
            node = self._children.get((node, token), -2)
            if node == -2:
                break
            shared += 1
        return context.num_tokens - shared

    def _nodes(self, parent: int, ids: Ids) -> list[int]:
        """The nodes of tokens that follow one another, the first of them a node's child."""
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


def rows(contexts: Sequence[Context], limit: int) -> list[Row]:
    """All contexts in rows that are trees of about `limit` tokens at most, the longest first.

    A context with more than that is a row by itself, or several with some of its options each.
    """
    found: list[Row] = []
    # What begins alike stands together in this order.
    for context in sorted(contexts, key=lambda context: context.ids):
        for part in _parts(context, limit):
            if not found or len(found[-1]) + found[-1].num_new(part) > limit:
                found.append(Row())
            found[-1].add(part)
    return sorted(found, key=len, reverse=True)


def chains(contexts: Sequence[Context]) -> list[Row]:
    """All contexts in rows that do not branch, the longest first.

    Options share a row where they are the same but for their last token.
    """
    found = []
    for context in contexts:
        options = sorted(context.options, key=lambda option: option.ids[:-1])
        for _, alike in groupby(options, lambda option: option.ids[:-1]):
            found.append(Row())
            found[-1].add(Context(context.ids, tuple(alike)))
    return sorted(found, key=len, reverse=True)


def batches(found: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Rows that go through together: `tokens` at most, padding included, or a single row.

    `found` has the longest first, so that neighbours need little padding.
    """
    some: list[Row] = []
    for row in found:
        if some and len(some[0]) * (len(some) + 1) > tokens:
            yield some
            some = []
        some.append(row)
    if some:
        yield some


def _parts(context: Context, limit: int) -> Iterator[Context]:
    some: list[Option] = []
    size = len(context.ids)
    for option in context.options:
        new = len(option.ids) - 1
        if some and new and size + new > limit:
            yield Context(context.ids, tuple(some))
            some, size = [], len(context.ids)
        some.append(option)
        size += new
    yield Context(context.ids, tuple(some))
