"""lm-eval's log-likelihood requests by what they share: a context, or how contexts begin."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Ids = tuple[int, ...]

Request = tuple[tuple[str, str], list[int], list[int]]
"""(texts, context ids, continuation ids), as lm-eval passes them."""

LEAST_SHARED = 16
"""Tokens: a shorter beginning is not worth a pass, and groups of its own, for it alone."""


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


@dataclass(frozen=True)
class Group:
    """Contexts that begin with the same tokens, as the questions of a few-shot task do."""

    prefix: Ids
    contexts: tuple[Context, ...]
    """Without the prefix: at least one token each."""


def contexts(requests: Sequence[Request], window: int) -> list[Context]:
    """Each context once with all of its options, in the order of the requests.

    Where context and continuation together are longer than `window` + 1 tokens, the beginning is
    cut off, as lm-eval does: the last token is predicted, not read.
    """
    options: dict[Ids, list[Option]] = defaultdict(list)
    for index, (_, context, continuation) in enumerate(requests):
        assert 0 < len(continuation) <= window, "as lm-eval asks"
        whole = (context + continuation)[-(window + 1) :]
        split = len(whole) - len(continuation)
        options[tuple(whole[:split])].append(Option(index, tuple(continuation)))
    return [Context(ids, tuple(some)) for ids, some in options.items()]


def num_too_long(requests: Sequence[Request], window: int) -> int:
    """How many requests lose their beginning."""
    return sum(len(context) + len(rest) > window + 1 for _, context, rest in requests)


def groups(found: Sequence[Context]) -> list[Group]:
    """The contexts in groups with a common beginning; those that share little are one group.

    Beginnings are compared as tokens, since a text's tokens may change where it goes on. A context
    joins the group of the one before it, in the order of their tokens, unless the group would lose
    more of its beginning by that than it gains.
    """
    ordered = sorted(found, key=lambda context: context.ids)
    shared, alone = [], []
    for some, length in _runs(ordered):
        if length < LEAST_SHARED or len(some) == 1:
            alone += some
            continue
        shared.append(
            Group(
                prefix=some[0].ids[:length],
                contexts=tuple(Context(each.ids[length:], each.options) for each in some),
            )
        )
    return [*shared, Group((), tuple(alone))] if alone else shared


def chunked(group: Group, size: int) -> Iterator[Group]:
    """The group in parts of at most so many contexts."""
    for at in range(0, len(group.contexts), size):
        yield Group(group.prefix, group.contexts[at : at + size])


def _runs(ordered: Sequence[Context]) -> Iterator[tuple[list[Context], int]]:
    """Neighbours that belong together, and how many tokens they begin with in common."""
    some: list[Context] = []
    length = 0
    for context in ordered:
        # A token must remain, for the last one's state is what predicts the continuation.
        most = len(context.ids) - 1
        common = min(most, _common(some[0].ids, context.ids, length)) if some else most
        if some and common * len(some) < length * (len(some) - 1):
            yield some, length
            some, common = [], most
        some.append(context)
        length = common
    if some:
        yield some, length


def _common(one: Ids, other: Ids, most: int) -> int:
    """How many tokens both begin with, `most` at most."""
    for at in range(min(most, len(one), len(other))):
        if one[at] != other[at]:
            return at
    return min(most, len(one), len(other))
