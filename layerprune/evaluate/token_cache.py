"""Tokens of requests, kept for the other models that are evaluated on the same prompts."""

from array import array
from collections.abc import Iterable, Sequence

from layerprune.evaluate.request_groups import Ids, Request

Texts = tuple[str, str]
"""Context and continuation of a request."""


class TokenCache:
    """Tokens of requests by their texts, for models with one tokenizer.

    Contexts are kept in arrays, which take a tenth of the memory of tuples.
    """

    def __init__(self) -> None:
        self._tokens: dict[Texts, tuple[array[int], Ids]] = {}

    def __contains__(self, texts: Texts) -> bool:
        return texts in self._tokens

    def add(self, requests: Sequence[Request]) -> None:
        """Keep the tokens of requests; neighbours with one context share its array."""
        last: Sequence[int] | None = None
        kept: array[int] = array("i")
        for texts, context, continuation in requests:
            if context is not last:
                last, kept = context, array("i", context)
            self._tokens[texts] = kept, tuple(continuation)

    def requests(self, texts: Iterable[Texts]) -> list[Request]:
        """Return requests with their tokens; neighbours with one context share its tuple."""
        requests: list[Request] = []
        last: array[int] | None = None
        context: Ids = ()
        for pair in texts:
            kept, continuation = self._tokens[pair]
            if kept is not last:
                last, context = kept, tuple(kept)
            requests.append((pair, context, continuation))
        return requests
