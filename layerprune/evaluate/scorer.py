"""Answers to lm-eval's log-likelihood requests, without the work that does not count.

lm-eval asks for log p(continuation | context), once for every option of a question. Its own
backend runs each pair from the start and takes logits at every position. Here a context runs once,
its options go on from its cached keys and values, and the head is applied at scored positions only.

Letters: B batch, T time, H hidden size, V vocabulary, K options of one context.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from layerprune.evaluate.loss import POSITIONS_AT_ONCE
from layerprune.model.stack import Head
from layerprune.progress import bar, say_once

Request = tuple[tuple[str, str], list[int], list[int]]
"""(texts, context ids, continuation ids), as lm-eval passes them."""

Answer = tuple[float, bool]
"""(log-likelihood, whether every token of the continuation was the likeliest)."""


class _Option(NamedTuple):
    request: int
    """Which request this is."""
    ids: tuple[int, ...]
    """The continuation."""


class Scorer(HFLM):
    """An lm-eval model for a causal LM in memory, equal to `HFLM` in its answers, but faster.

    Only log-likelihoods of continuations are answered here; prompts, tokenisation, truncation,
    rolling likelihoods and generation stay lm-eval's own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        max_length: int | None = None,
    ) -> None:
        super().__init__(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length
        )
        self._shares = _keeps_whole_cache(model)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """lm-eval's own, without its bar for the tokeniser: this project's bars are enough."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[Request],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[Answer]:
        """One answer for each request, in order."""
        if not self._shares:
            return super()._loglikelihood_tokens(list(requests), disable_tqdm=True)
        found: dict[int, Answer] = {}
        head = Head(self.model)
        with torch.inference_mode(), bar("answers", total=len(requests)) as advance:
            for contexts, options in self._batches(requests):
                found.update(self._score(head, contexts, options))
                advance(sum(map(len, options)))
        return [found[index] for index in range(len(requests))]

    def _batches(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[list[tuple[int, ...]], list[list[_Option]]]]:
        """Contexts of one length with their options, longest first, `batch_size` at a time.

        Contexts of one length need no padding, so their caches can be continued as they are.
        """
        window = self.max_length + 1  # the last token is predicted, not read
        too_long = sum(len(context) + len(rest) > window for _, context, rest in requests)
        if too_long:
            say_once(
                f"{too_long} of {len(requests)} prompts are longer than the model's window of "
                f"{self.max_length} tokens: their beginning is cut off, as lm-eval does."
            )
        options: dict[tuple[int, ...], list[_Option]] = defaultdict(list)
        for index, (_, context, continuation) in enumerate(requests):
            # lm-eval's rule: where the two are longer than the window, the left is cut off.
            assert 0 < len(continuation) <= self.max_length, "as lm-eval asks"
            whole = (context + continuation)[-window:]
            split = len(whole) - len(continuation)
            options[tuple(whole[:split])].append(_Option(index, tuple(continuation)))
        by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
        for ids in options:
            by_length[len(ids)].append(ids)
        for length in sorted(by_length, reverse=True):
            same = by_length[length]
            for at in range(0, len(same), self.batch_size):
                batch = same[at : at + self.batch_size]
                yield batch, [options[context] for context in batch]

    def _score(
        self, head: Head, contexts: list[tuple[int, ...]], options: list[list[_Option]]
    ) -> Iterator[tuple[int, Answer]]:
        """The answers for a batch of contexts of one length."""
        decoder = self.model.get_decoder()
        ids_BT = torch.tensor(contexts, device=self.device)
        long = any(len(option.ids) > 1 for row in options for option in row)
        run = decoder(input_ids=ids_BT, use_cache=long)
        first_BV = _log_softmax(head(run.last_hidden_state[:, -1]))

        # One row for each option that goes on after its first token.
        rows = [(row, option) for row, group in enumerate(options) for option in group]
        longer = [(row, option) for row, option in rows if len(option.ids) > 1]
        after: dict[int, Tensor] = {}
        if longer:
            cache = run.past_key_values
            cache.batch_select_indices(torch.tensor([row for row, _ in longer], device=self.device))
            fed = [option.ids[:-1] for _, option in longer]
            widest = max(map(len, fed))
            # Padded on the right: no token attends to what stands after it.
            fed_BT = torch.tensor(
                [[*ids, *[0] * (widest - len(ids))] for ids in fed], device=self.device
            )
            hidden_BTH = decoder(input_ids=fed_BT, past_key_values=cache).last_hidden_state
            real_NH = torch.cat([hidden_BTH[at, : len(ids)] for at, ids in enumerate(fed)])
            target_N = torch.tensor(
                [token for _, option in longer for token in option.ids[1:]], device=self.device
            )
            scored_N2 = torch.cat(
                [
                    _scored(_log_softmax(head(hidden)), target)
                    for hidden, target in zip(
                        real_NH.split(POSITIONS_AT_ONCE),
                        target_N.split(POSITIONS_AT_ONCE),
                        strict=True,
                    )
                ]
            )
            split = scored_N2.split([len(ids) for ids in fed])
            after = {option.request: part for (_, option), part in zip(longer, split, strict=True)}

        for row, option in rows:
            target_1 = torch.tensor(option.ids[:1], device=self.device)
            scored_T2 = _scored(first_BV[row : row + 1], target_1)
            if option.request in after:
                scored_T2 = torch.cat([scored_T2, after[option.request]])
            yield option.request, (float(scored_T2[:, 0].sum()), bool(scored_T2[:, 1].all()))


def _keeps_whole_cache(model: PreTrainedModel) -> bool:
    """Whether every layer's cache is keys and values of all tokens, which any row may continue.

    Sliding windows and recurrent states forget; those models take lm-eval's own way.
    """
    cache = DynamicCache(config=model.config)
    return bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)


def _log_softmax(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits, dim=-1)


def _scored(logprob_NV: Tensor, target_N: Tensor) -> Tensor:
    """For each position the target's log-probability, and 1 if it is the likeliest: [N, 2]."""
    value_N = logprob_NV.gather(1, target_N[:, None])[:, 0]
    greedy_N = logprob_NV.argmax(dim=-1) == target_N
    return torch.stack([value_N, greedy_N.to(value_N.dtype)], dim=1)
