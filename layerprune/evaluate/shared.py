"""Many cut models asked in one pass: whatever they share runs once.

Cut models of one model run the same layers up to their cuts, with the same weights on the same
text. Their paths through the layers form a tree (`tree.grow`); each branch runs once, for all
questions, and what it puts out goes on into the branches above it. Within a branch, the tokens that
a group of questions begins with run once, and a question's options go on from its cached keys and
values, unless a model's layers forget (sliding windows): then branches alone are shared. The head
is applied at scored positions only.

Letters: B batch, T time, H hidden size, V vocabulary, R rows (options that go on after their first
token), N positions, K options of all contexts of a batch.
"""

from collections.abc import Iterator, Sequence

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from layerprune.evaluate.contexts import Context, Group, Ids, Option
from layerprune.model.segment import Run
from layerprune.model.stack import Head
from layerprune.paths.scored import scored
from layerprune.paths.walk import States

LEAST_PADDING = 8
"""Tokens of padding that no batch is split for."""

ROWS_EACH = 4
"""Options of a context that memory is planned for."""

Answer = tuple[float, bool]
"""(log-likelihood, whether every token of the continuation was the likeliest)."""


def _continued(before: DynamicCache | None, rows: int) -> DynamicCache:
    """A cache of its own for so many rows, each of which goes on from what came before."""
    cache = DynamicCache()
    if before is not None:
        for at, layer in enumerate(before.layers):
            assert isinstance(layer, DynamicLayer)
            assert layer.keys is not None
            assert layer.values is not None
            cache.update(
                layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), at
            )
    return cache


class Continued:
    """Contexts whose options go on from their cached keys and values.

    Contexts of one length need no padding, so that their caches can be continued as they are.
    """

    def __init__(
        self, contexts: Sequence[Context], device: torch.device, found: list[dict[int, Answer]]
    ) -> None:
        """Answers go into `found`: by path, and then by request."""
        self._found = found
        length = max(len(context.ids) for context in contexts)
        self._ids_BT = torch.tensor(
            [[*each.ids, *[0] * (length - len(each.ids))] for each in contexts], device=device
        )
        self._last_B = torch.tensor([len(each.ids) - 1 for each in contexts], device=device)
        options = [
            (row, option) for row, context in enumerate(contexts) for option in context.options
        ]
        self._requests = [option.request for _, option in options]
        self._row_K = torch.tensor([row for row, _ in options], device=device)
        self._first_K = torch.tensor([option.ids[0] for _, option in options], device=device)
        # One row for each option that goes on after its first token.
        longer = [
            (at, row, option.ids) for at, (row, option) in enumerate(options) if len(option.ids) > 1
        ]
        self._longer = bool(longer)
        assert not longer or bool((self._last_B == length - 1).all()), "caches cannot have gaps"
        widest = max((len(ids) - 1 for _, _, ids in longer), default=0)
        self._row_R = torch.tensor([row for _, row, _ in longer], device=device)
        # Padded on the right: no token attends to what stands after it.
        self._fed_RT = torch.tensor(
            [[*ids[:-1], *[0] * (widest - len(ids) + 1)] for _, _, ids in longer], device=device
        )
        positions = [
            (row, at, option, token)
            for row, (option, _, ids) in enumerate(longer)
            for at, token in enumerate(ids[1:])
        ]
        self._where_N, self._when_N, self._option_N, self._token_N = (
            (torch.tensor(column, device=device) for column in zip(*positions, strict=True))
            if positions
            else (torch.empty(0, dtype=torch.long, device=device),) * 4
        )

    def run(self, run: Run, before: DynamicCache | None, states: States) -> tuple[States, States]:
        """Contexts first; their options go on from the cache."""
        cache = None
        if before is not None or self._longer:
            cache = _continued(before, len(self._ids_BT))
        context = (
            run(state=states[0], cache=cache) if states else run(ids=self._ids_BT, cache=cache)
        )
        if not self._longer:
            return (context.state,), (context.normed,)
        assert cache is not None
        cache.batch_select_indices(self._row_R)
        option = run(state=states[1], cache=cache) if states else run(ids=self._fed_RT, cache=cache)
        return (context.state, option.state), (context.normed, option.normed)

    def end(self, head: Head, path: int, normed: States) -> None:
        """Log-likelihoods from the states that predict a token of an option."""
        rows_B = torch.arange(len(self._last_B), device=self._last_B.device)
        first_BV = torch.log_softmax(head(normed[0][rows_B, self._last_B]), dim=-1)
        # Sums in float32: in 16 bits a long option's last tokens would be lost.
        total_K = first_BV[self._row_K, self._first_K].float()
        wrong_K = (first_BV.argmax(dim=-1)[self._row_K] != self._first_K).to(total_K.dtype)
        if self._longer:
            value_N, likeliest_N = scored(
                head, normed[1][self._where_N, self._when_N], self._token_N
            )
            total_K.index_add_(0, self._option_N, value_N)
            wrong_K.index_add_(0, self._option_N, (~likeliest_N).to(total_K.dtype))
        self._found[path].update(
            (request, (value, wrong == 0))
            for request, value, wrong in zip(
                self._requests, total_K.tolist(), wrong_K.tolist(), strict=True
            )
        )


class Rows:
    """Contexts and options as whole sequences: for models whose caches forget.

    All options of a context are the same but for their last token.
    """

    def __init__(
        self, contexts: Sequence[Context], device: torch.device, found: list[dict[int, Answer]]
    ) -> None:
        """Answers go into `found`: by path, and then by request."""
        self._found = found
        rows = [(*context.ids, *context.options[0].ids[:-1]) for context in contexts]
        length = max(map(len, rows))
        # Padded on the right: no token attends to what stands after it.
        self._ids_BT = torch.tensor(
            [[*row, *[0] * (length - len(row))] for row in rows], device=device
        )
        options = [
            (row, len(context.ids) - 1, option)
            for row, context in enumerate(contexts)
            for option in context.options
        ]
        self._requests = [option.request for _, _, option in options]
        self._lengths = [len(option.ids) for _, _, option in options]
        positions = (
            (row, last + at, token)
            for row, last, option in options
            for at, token in enumerate(option.ids)
        )
        self._where_N, self._when_N, self._token_N = (
            torch.tensor(column, device=device) for column in zip(*positions, strict=True)
        )

    def run(self, run: Run, before: DynamicCache | None, states: States) -> tuple[States, States]:
        """Sequences stand for themselves: nothing comes before them."""
        assert before is None
        out = run(state=states[0]) if states else run(ids=self._ids_BT)
        return (out.state,), (out.normed,)

    def end(self, head: Head, path: int, normed: States) -> None:
        """Log-likelihoods from the states that predict a token of an option."""
        value_N, likeliest_N = scored(head, normed[0][self._where_N, self._when_N], self._token_N)
        for request, values, likeliest in zip(
            self._requests,
            value_N.split(self._lengths),
            likeliest_N.split(self._lengths),
            strict=True,
        ):
            self._found[path][request] = float(values.sum()), bool(likeliest.all())


def batched(group: Group, size: int) -> Iterator[list[Context]]:
    """Contexts that go through together: of one length, unless all options are one token long.

    At most `size` of them, with `ROWS_EACH` times as many options: each is a row of its own.
    """
    ordered = sorted(group.contexts, key=lambda context: len(context.ids), reverse=True)
    if all(len(option.ids) == 1 for context in ordered for option in context.options):
        yield from _padded(ordered, size)
        return
    some: list[Context] = []
    rows = 0
    for context in ordered:
        for at in range(0, len(context.options), size * ROWS_EACH):
            part = Context(context.ids, context.options[at : at + size * ROWS_EACH])
            full = len(some) == size or rows + len(part.options) > size * ROWS_EACH
            if some and (full or len(some[0].ids) != len(part.ids)):
                yield some
                some, rows = [], 0
            some.append(part)
            rows += len(part.options)
    if some:
        yield some


def _padded(ordered: Sequence[Context], size: int) -> Iterator[list[Context]]:
    """Neighbours of about one length: a little padding costs less than batches of one."""
    some: list[Context] = []
    for context in ordered:
        if some:
            longest = len(some[0].ids)
            padding = longest - len(context.ids)
            if len(some) == size or padding > max(LEAST_PADDING, longest // 4):
                yield some
                some = []
        some.append(context)
    if some:
        yield some


def rows_of_a_length(group: Group, size: int) -> list[list[Context]]:
    """Contexts whose options differ in their last token only, those of about one length together.

    The longest come first, so that memory that is too small shows at once.
    """
    rows = []
    for context in group.contexts:
        alike: dict[Ids, list[Option]] = {}
        for option in context.options:
            alike.setdefault(option.ids[:-1], []).append(option)
        rows += [Context(context.ids, tuple(options)) for options in alike.values()]
    rows.sort(key=lambda row: len(row.ids) + len(row.options[0].ids), reverse=True)
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def keeps_whole_cache(model: PreTrainedModel) -> bool:
    """Whether every layer's cache is keys and values of all tokens, which any row may continue.

    Sliding windows and recurrent states forget: such models run whole sequences (`Rows`).
    """
    cache = DynamicCache(config=model.config)
    return bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)
