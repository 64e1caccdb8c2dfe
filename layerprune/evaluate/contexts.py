"""lm-eval's log-likelihood requests by what they share: a context, or how contexts begin."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

Ids = tuple[int, ...]

Request = tuple[tuple[str, str], Sequence[int], Sequence[int]]
"""(texts, context ids, continuation ids), as lm-eval passes them."""

Answer = tuple[float, bool]
"""(log-likelihood, whether every token of the continuation was the likeliest)."""

LEAST_SAVED = 256
"""Tokens that a group must save: each one is a pass of its own, in smaller batches."""

LEAST_PREFIX = 32
"""Tokens that a group must begin with: with fewer, rows of many contexts share them as well."""


class Option(NamedTuple):
    """A continuation whose log-likelihood is asked for."""

    request: int
    """Which request this is."""
    ids: Ids


@dataclass(frozen=True)
class Context:
    """What stands before some options."""

    ids: Ids
    options: tuple[Option, ...]

    @property
    def num_tokens(self) -> int:
        """How many are read: the last one of an option is predicted alone."""
        return len(self.ids) + sum(len(option.ids) - 1 for option in self.options)


@dataclass(frozen=True)
class Group:
    """Contexts that begin with the same tokens, as the questions of a few-shot task do."""

    prefix: Ids
    contexts: tuple[Context, ...]
    """Without the prefix: at least one token each."""

    @property
    def num_tokens(self) -> int:
        """How many are read, the beginning of all once."""
        return len(self.prefix) + sum(context.num_tokens for context in self.contexts)

    @property
    def requests(self) -> list[int]:
        """Which requests these are, as their answers are stored."""
        return [option.request for context in self.contexts for option in context.options]


def contexts(requests: Sequence[Request], window: int) -> list[Context]:
    """Each context once with all of its options, in the order of the requests.

    Where context and continuation together are longer than `window` + 1 tokens, the beginning is
    cut off, as lm-eval does: the last token is predicted, not read.
    """
    options: dict[Ids, list[Option]] = defaultdict(list)
    for index, (_, context, continuation) in enumerate(requests):
        assert 0 < len(continuation) <= window, "as lm-eval asks"
        whole = (*context, *continuation)[-(window + 1) :]
        split = len(whole) - len(continuation)
        options[whole[:split]].append(Option(index, tuple(continuation)))
    return [Context(ids, tuple(some)) for ids, some in options.items()]


def num_too_long(requests: Sequence[Request], window: int) -> int:
    """How many requests lose their beginning."""
    return sum(len(context) + len(rest) > window + 1 for _, context, rest in requests)


def groups(found: Sequence[Context]) -> list[Group]:
    """The contexts in groups whose common beginnings save many tokens; the rest is one group.

    Beginnings are compared as tokens, since a text's tokens may change where it goes on.
    """
    shared, alone = [], []
    for members, length in _families([context.ids for context in found]):
        some = [found[at] for at in members]
        if length < LEAST_PREFIX or length * (len(some) - 1) < LEAST_SAVED:
            alone += some
            continue
        rest = tuple(Context(each.ids[length:], each.options) for each in some)
        shared.append(Group(some[0].ids[:length], rest))
    return [*shared, Group((), tuple(alone))] if alone else shared


def chunked(group: Group, size: int) -> Iterator[Group]:
    """The group in parts of at most so many contexts."""
    for at in range(0, len(group.contexts), size):
        yield Group(group.prefix, group.contexts[at : at + size])


@dataclass
class _Kin:
    """Sequences `low` to `high` - 1 of an order, which begin with the same `length` tokens."""

    low: int
    high: int
    length: int
    children: list["_Kin"] = field(default_factory=list)
    """Those of them that begin with more in common."""
    saved: int = 0
    """Tokens that need not run again, once `groups` are made."""
    groups: list[tuple[list[int], int]] = field(default_factory=list)

    def settle(self) -> "_Kin":
        """Group those children together that save more so than by themselves."""
        gains = [self.length * (child.high - child.low) - child.saved for child in self.children]
        # The group's beginning has to run once.
        together = sum(max(0, gain) for gain in gains) > self.length
        joined: list[int] = []
        for child, gain in zip(self.children, gains, strict=True):
            if together and gain > 0:
                joined += range(child.low, child.high)
            else:
                self.groups += child.groups
                self.saved += child.saved
        if joined:
            self.groups.append((joined, self.length))
            self.saved += self.length * (len(joined) - 1)
        return self


def _families(sequences: Sequence[Ids]) -> list[tuple[list[int], int]]:
    """The sequences' numbers in groups, with how many tokens each group begins with in common.

    Sequences that begin alike are a tree; each of its branches is a group of its own, or joins that
    of the branch below it, whichever saves more tokens. One remains of each sequence, for its state
    is what predicts the continuation.
    """
    order = sorted(range(len(sequences)), key=lambda at: sequences[at])
    alone = [
        _Kin(at, at + 1, len(sequences[number]), groups=[([at], 0)])
        for at, number in enumerate(order)
    ]
    begins, ends = {each.low: each for each in alone}, {each.high: each for each in alone}
    overlaps = [
        (_common(sequences[one], sequences[other]), at)
        for at, (one, other) in enumerate(pairwise(order), start=1)
    ]
    # What begins alike stands together in this order; neighbours that share most are kin first.
    for length, at in sorted(overlaps, reverse=True):
        left, right = ends.pop(at), begins.pop(at)
        joined = _Kin(left.low, right.high, length)
        for side in (left, right):
            same = side.children and side.length == length
            joined.children += side.children if same else [side.settle()]
        begins[joined.low] = ends[joined.high] = joined
    found = begins[0].settle().groups if begins else []
    return [([order[at] for at in members], length) for members, length in found]


def _common(one: Ids, other: Ids) -> int:
    """How many tokens both begin with, of all but the last."""
    shorter = min(len(one), len(other)) - 1
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)
