"""lm-eval's log-likelihood requests, grouped by what they share: a context, or a common prefix."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np

from layerprune.shared_forward.prefix_tree import common_prefix_length

Ids = tuple[int, ...]

Request = tuple[tuple[str, str], Sequence[int], Sequence[int]]
"""(texts, context ids, continuation ids), as lm-eval passes them."""

Answer = tuple[float, bool]
"""(log-likelihood, True if every token of the continuation was the likeliest)."""

PathAnswers = dict[int, Answer]
"""The answers of one path, by request number."""

MIN_SAVED_TOKENS = 256
"""Tokens that a group must save, since each group adds a pass with smaller batches."""

MIN_PREFIX_TOKENS = 32
"""Tokens that a group must share: shorter prefixes are shared within token trees as well."""

T = TypeVar("T")


class Option(NamedTuple):
    """A continuation whose log-likelihood is requested."""

    request: int
    """Number of the request."""
    ids: Ids


@dataclass(frozen=True)
class Context:
    """A context with all of its options."""

    ids: Ids
    options: tuple[Option, ...]

    @property
    def num_tokens(self) -> int:
        """Number of input tokens: the last token of an option is only predicted."""
        return len(self.ids) + sum(len(option.ids) - 1 for option in self.options)


@dataclass(frozen=True)
class ContextGroup:
    """Contexts with a common prefix, such as the prompts of a few-shot task."""

    prefix: Ids
    contexts: tuple[Context, ...]
    """Without the prefix: at least one token each."""

    @property
    def num_tokens(self) -> int:
        """Number of input tokens, with the prefix once."""
        return len(self.prefix) + sum(context.num_tokens for context in self.contexts)

    @property
    def requests(self) -> list[int]:
        """Numbers of the requests, in the order in which their answers are cached."""
        return [option.request for context in self.contexts for option in context.options]

    @property
    def key(self) -> str:
        """16 hex digits of a hash of all tokens, in their order."""
        digest = hashlib.sha256()
        for context in self.contexts:
            for ids in (self.prefix, context.ids, *(option.ids for option in context.options)):
                digest.update(np.array([len(ids), *ids], dtype=np.int64).tobytes())
            digest.update(len(context.options).to_bytes(8, "little"))
        return digest.hexdigest()[:16]

    def split(self, size: int) -> Iterator["ContextGroup"]:
        """Yield the group in parts of at most `size` contexts."""
        for start in range(0, len(self.contexts), size):
            yield ContextGroup(self.prefix, self.contexts[start : start + size])


def pack(items: Iterable[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Yield runs of consecutive items whose sizes sum to `limit` at most, or a single larger item.

    Items of size 0 fit everywhere.
    """
    run: list[T] = []
    total = 0
    for item in items:
        new = size(item)
        if run and new and total + new > limit:
            yield run
            run, total = [], 0
        run.append(item)
        total += new
    if run:
        yield run


def to_contexts(requests: Sequence[Request], window: int) -> list[Context]:
    """Return each context once with all of its options, in the order of the requests.

    Where context and continuation are longer than `window` + 1 tokens, the start is cut off, as
    lm-eval does: the last token is predicted, not read.
    """
    options: dict[Ids, list[Option]] = defaultdict(list)
    for number, (_, context, continuation) in enumerate(requests):
        assert 0 < len(continuation) <= window, "lm-eval requires it"
        sequence = (*context, *continuation)[-(window + 1) :]
        split = len(sequence) - len(continuation)
        options[sequence[:split]].append(Option(number, tuple(continuation)))
    return [Context(ids, tuple(of_context)) for ids, of_context in options.items()]


def group_contexts(contexts: Sequence[Context]) -> list[ContextGroup]:
    """Group contexts whose common prefixes save many tokens; the others are the last group.

    Prefixes are compared as tokens, since a text's tokens may depend on how it continues.
    """
    shared, others = [], []
    for numbers, length in _prefix_groups([context.ids for context in contexts]):
        members = [contexts[number] for number in numbers]
        if length < MIN_PREFIX_TOKENS or length * (len(members) - 1) < MIN_SAVED_TOKENS:
            others += members
            continue
        rest = tuple(Context(member.ids[length:], member.options) for member in members)
        shared.append(ContextGroup(members[0].ids[:length], rest))
    return [*shared, ContextGroup((), tuple(others))] if others else shared


@dataclass
class _PrefixNode:
    """Sequences `low` to `high` - 1 of a sorted order, which share their first `length` tokens."""

    low: int
    high: int
    length: int
    children: list["_PrefixNode"] = field(default_factory=list)
    """Subsets that share a longer prefix."""
    saved: int = 0
    """Tokens that `groups` save."""
    groups: list[tuple[list[int], int]] = field(default_factory=list)

    def settle(self) -> "_PrefixNode":
        """Join those children to one group that save more tokens there than by themselves."""
        gains = [self.length * (child.high - child.low) - child.saved for child in self.children]
        # The group's prefix has to run once.
        joins = sum(max(0, gain) for gain in gains) > self.length
        joined: list[int] = []
        for child, gain in zip(self.children, gains, strict=True):
            if joins and gain > 0:
                joined += range(child.low, child.high)
            else:
                self.groups += child.groups
                self.saved += child.saved
        if joined:
            self.groups.append((joined, self.length))
            self.saved += self.length * (len(joined) - 1)
        return self


def _prefix_groups(sequences: Sequence[Ids]) -> list[tuple[list[int], int]]:
    """Group sequences by common prefixes; return each group's numbers and prefix length.

    The prefixes form a tree. Each of its nodes becomes a group, or joins its parent's group,
    whichever saves more tokens. One token of each sequence is never shared: its state predicts the
    continuation.
    """
    order = sorted(range(len(sequences)), key=lambda number: sequences[number])
    leaves = [
        _PrefixNode(place, place + 1, len(sequences[number]), groups=[([place], 0)])
        for place, number in enumerate(order)
    ]
    by_low, by_high = {node.low: node for node in leaves}, {node.high: node for node in leaves}
    overlaps = [
        (common_prefix_length(sequences[one][:-1], sequences[other][:-1]), place)
        for place, (one, other) in enumerate(pairwise(order), start=1)
    ]
    # Sorted sequences with a common prefix are neighbours; join those that share most first.
    for length, place in sorted(overlaps, reverse=True):
        left, right = by_high.pop(place), by_low.pop(place)
        joined = _PrefixNode(left.low, right.high, length)
        for node in (left, right):
            same = node.children and node.length == length
            joined.children += node.children if same else [node.settle()]
        by_low[joined.low] = by_high[joined.high] = joined
    groups = by_low[0].settle().groups if by_low else []
    return [([order[place] for place in places], length) for places, length in groups]
