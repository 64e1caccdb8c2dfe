"""An lm-eval model that answers log-likelihood requests for many cut models in one shared pass.

lm-eval requests log p(continuation | context) for each option of a question. Its own backend runs
each pair from the start, for one model at a time, and computes logits at every position. Here, all
cut models of a model answer together when the first of them is evaluated: the layers that their
paths share, and the tokens that prompts share, run once.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import has_bos_prefix
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerprune.evaluate.answer_cache import AnswerCache, CachedAnswers
from layerprune.evaluate.request_groups import (
    Answer,
    Context,
    ContextGroup,
    Ids,
    PathAnswers,
    Request,
    group_contexts,
    pack,
    to_contexts,
)
from layerprune.evaluate.token_cache import TokenCache
from layerprune.evaluate.token_tree import TokenTree, batches, token_trees, unbranched_trees
from layerprune.evaluate.token_tree_batch import (
    TokenTreeBatch,
    max_tree_difference,
    tree_difference,
)
from layerprune.model.offload import input_device
from layerprune.model.partial_forward import runs_layer_by_layer
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import limited_to
from layerprune.record.provenance import PromptSharing
from layerprune.runtime.progress import progress_bar, say, say_once
from layerprune.shared_forward.memory_budget import MAX_TREE_TOKENS, MemoryBudget, halved
from layerprune.shared_forward.prefix_tree import LayerPath, layer_runs
from layerprune.shared_forward.streaming_eta import announce_eta
from layerprune.shared_forward.traversal import max_buffered_states, traverse

CHUNK_SIZE = 256
"""Contexts whose answers are stored together: the most that an interrupted run loses."""

PLACEHOLDER: Answer = (0.0, False)
"""An answer that nobody reads."""

Prefixed = tuple[Ids, list[TokenTree]]
"""A batch of trees, and the prefix that precedes each of them."""

Advance = Callable[[float], None]


class Scorer(HFLM):
    """An lm-eval model for cut models of a causal LM, with the answers of `HFLM`, but faster.

    `paths` are the layers that each cut model keeps; `path` is the number of the one that answers.
    The model itself keeps all layers. Log-likelihoods are computed here, for all paths at once;
    prompts, tokenisation and generation are lm-eval's. Answers in `answer_cache` are reused, and
    processes with the same cache share the work. Requests in `token_cache` are not tokenized again:
    it belongs to one tokenizer. A `helping` one leaves to the others what they
    are working on and everything that is generated; its own answers are meaningless.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        memory_budget: MemoryBudget | None = None,
        max_length: int | None = None,
        paths: Sequence[LayerPath] | None = None,
        answer_cache: AnswerCache | None = None,
        token_cache: TokenCache | None = None,
        helping: bool = False,
    ) -> None:
        self._encoded: dict[str, list[int]] = {}
        """Tokens of the texts that lm-eval is about to tokenize."""
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",  # lm-eval's guess may be wrong for half of an encoder-decoder
            max_length=max_length,
        )
        self._device = input_device(model)
        every_layer = tuple(range(len(decoder_stack(model).layers)))
        self.paths: Sequence[LayerPath] = [every_layer] if paths is None else paths
        self.path = 0
        self.pass_seconds = self.token_seconds = 0.0
        """Duration of the shared passes, and of tokenizing their requests."""
        self.sharing = PromptSharing()
        self._answer_cache = answer_cache or AnswerCache()
        self._token_cache = TokenCache() if token_cache is None else token_cache
        self._helping = helping
        self._memory_budget = MemoryBudget.of(model) if memory_budget is None else memory_budget
        self.batch_size_per_gpu = self._memory_budget.sequences(self.max_length)  # to generate
        self._keys: dict[tuple[str, str], bytes] = {}
        self._answers: dict[bytes, list[Answer]] = {}
        """Answers of all paths, by the key of the request."""
        self._tokenized: list[Request] | None = None
        """Requests as tokens, while lm-eval tokenizes them."""

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """Return the answers of the path; new requests are answered for all paths."""
        new = {request.args: request for request in requests if request.args not in self._keys}
        if new:
            self._answer_all(self._tokenize(list(new.values())))
        return [self._answers[self._keys[request.args]][self.path] for request in requests]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate with lm-eval's own method, for the path alone."""
        if self._helping:
            return [""] * len(requests)
        with limited_to(self.model, self.paths[self.path]):
            return super().generate_until(requests, disable_tqdm=True)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, *args: Any, **kwargs: Any
    ) -> list[int]:
        """Tokenize as lm-eval does; texts that were tokenized together are looked up."""
        if add_special_tokens is None and string in self._encoded:
            return self._encoded[string]
        return super().tok_encode(string, add_special_tokens, *args, **kwargs)

    def _tokenize(self, requests: list[Instance]) -> list[Request]:
        """Let lm-eval tokenize new requests, 1000 at a time for the progress bar."""
        self._tokenized = []
        started = time.monotonic()
        new = [request for request in requests if request.args not in self._token_cache]
        with progress_bar("prompts", total=len(new)) as advance:
            for start in range(0, len(new), 1000):
                part = new[start : start + 1000]
                self._encode_together([request.args for request in part])
                super().loglikelihood(part, disable_tqdm=True)  # calls _loglikelihood_tokens
                advance(len(part))
        self._encoded.clear()
        self._token_cache.add(self._tokenized)
        self._tokenized = None
        tokenized = self._token_cache.requests(request.args for request in requests)
        self.token_seconds += time.monotonic() - started
        return tokenized

    def _encode_together(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Tokenize the texts of contexts and continuations on all cores, each text once.

        lm-eval tokenizes one at a time, and each context again for each of its options.
        """
        texts: dict[str, None] = {}
        for context, continuation in pairs:
            if context:
                texts |= {context.rstrip(): None, context + continuation: None}
        starts = self.tokenizer.decode(self.prefix_token_id)
        for has_bos in (False, True):  # lm-eval's rule for special tokens
            alike = [text for text in texts if has_bos_prefix(text, starts) is has_bos]
            special = False if has_bos else self.add_bos_token
            arguments = {} if special is None else {"add_special_tokens": special}
            if alike:
                tokens = self.tokenizer(alike, return_attention_mask=False, **arguments)
                self._encoded.update(zip(alike, tokens["input_ids"], strict=True))

    def _loglikelihood_tokens(
        self,
        requests: Sequence[Request],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[Answer]:
        """Return one answer for each request, in order; also called for rolling likelihoods."""
        if self._tokenized is None:
            return self._answer_all(requests)
        for texts, context, continuation in requests:
            ids = tuple(context)
            if self._tokenized and self._tokenized[-1][1] == ids:
                ids = self._tokenized[-1][1]  # options share one tuple: prompts are long
            self._tokenized.append((texts, ids, tuple(continuation)))
        return [PLACEHOLDER] * len(requests)

    def _answer_all(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the path's answers; new requests are answered for all paths."""
        keys = [_key(context, continuation) for _, context, continuation in requests]
        self._keys.update((texts, key) for (texts, _, _), key in zip(requests, keys, strict=True))
        new = {
            key: request
            for key, request in zip(keys, requests, strict=True)
            if key not in self._answers
        }
        if new:
            started = time.monotonic()
            self._answers.update(zip(new, self._compute(list(new.values())), strict=True))
            self.pass_seconds += time.monotonic() - started
        return [self._answers[key][self.path] for key in keys]

    def _compute(self, requests: Sequence[Request]) -> list[list[Answer]]:
        """Return the answers of all paths to each request, from the cache or from passes."""
        window = self.max_length
        too_long = sum(len(context) + len(rest) > window + 1 for _, context, rest in requests)
        if too_long:
            say_once(
                f"{too_long} of {len(requests)} prompts are longer than the model's window of "
                f"{window} tokens: their beginning is cut off, as lm-eval does."
            )
        contexts = to_contexts(requests, window)
        answers: list[PathAnswers] = [{} for _ in self.paths]
        new = [
            chunk
            for group in group_contexts(contexts)
            for chunk in group.split(CHUNK_SIZE)
            if self._missing_paths(chunk, self._answer_cache.read(chunk.key), answers)
        ]
        num_new = sum(len(chunk.contexts) for chunk in new)
        if num_new < len(contexts):
            say(f"{len(contexts) - num_new} of {len(contexts)} prompts are in the answer cache.")
        title = "answers" if len(self.paths) == 1 else f"answers of {len(self.paths)} models"
        _ = new and self._branching  # tried before the bar starts: it takes extra passes
        if new and not self._branching:
            self.sharing = replace(self.sharing, cost=_cost_without_sharing(new))
        passes = list(self._passes(new))
        buffered_states = max_buffered_states(self.model, self.paths)
        buffered_tokens = self._memory_budget.buffered_tokens
        announce_eta(
            self.model, title, self.paths, self._memory_budget,
            passes=sum(-(-buffered_states * _tokens(chunks) // buffered_tokens)
                       for chunks in passes),
            tokens=_tokens(new), positions=num_new,
        )  # fmt: skip
        with progress_bar(title, total=num_new) as advance_contexts:
            # Prompts differ in length: count tokens, so that the remaining time is right.
            contexts_per_token = num_new / max(1, _tokens(new))

            def advance(tokens: float) -> None:
                advance_contexts(contexts_per_token * tokens)

            busy = [
                chunk for chunks in passes for chunk in self._answer_free(chunks, answers, advance)
            ]
            for chunk in () if self._helping else busy:
                with self._answer_cache.locked(chunk.key) as cached:
                    assert cached is not None
                    self._answer([(chunk, cached)], answers, advance)
        return [
            [of_path.get(number, PLACEHOLDER) for of_path in answers]
            for number in range(len(requests))
        ]

    def _passes(self, chunks: Sequence[ContextGroup]) -> Iterator[list[ContextGroup]]:
        """Yield the chunks of each pass: one if the weights are in memory, many if streamed."""
        if not runs_layer_by_layer(self.model):
            return ([chunk] for chunk in chunks)
        limit = self._memory_budget.buffered_tokens // max_buffered_states(self.model, self.paths)
        return pack(chunks, lambda chunk: chunk.num_tokens, limit)

    def _answer_free(
        self, chunks: Sequence[ContextGroup], answers: list[PathAnswers], advance: Advance
    ) -> list[ContextGroup]:
        """Answer the chunks that no other process works on; return the rest."""
        busy, free = [], []
        with ExitStack() as locks:
            for chunk in chunks:
                cached = locks.enter_context(self._answer_cache.locked(chunk.key, wait=False))
                if cached is None:
                    busy.append(chunk)
                else:
                    free.append((chunk, cached))
            self._answer(free, answers, advance)
        return busy

    @cached_property
    def _branching(self) -> bool:
        """True if prompts may share tokens; trees without branches are used otherwise."""
        difference = tree_difference(self.model)
        self.sharing = PromptSharing(difference if math.isfinite(difference) else None)
        if difference < max_tree_difference(self.model):
            return True
        if getattr(self.model, "is_loaded_in_8bit", False):
            why = "LLM.int8 rounds a token by the others of its batch"
        elif math.isfinite(difference):
            why = f"states in a token tree differ by {difference:.2g} of their norm"
        else:
            why = "its decoder does not support token trees"
        say_once(
            f"{self.model.config.model_type}: cut models share layers, but prompts share no tokens "
            f"and run one by one, since {why}."
        )
        return False

    def _missing_paths(
        self, chunk: ContextGroup, cached: CachedAnswers, answers: list[PathAnswers]
    ) -> list[int]:
        """Return the numbers of the paths without cached answers; add the others' to `answers`."""
        order, missing = chunk.requests, []
        for number, path in enumerate(self.paths):
            of_path = cached.get(path)
            if of_path is None or len(of_path) != len(order):
                missing.append(number)
            else:
                answers[number].update(zip(order, of_path, strict=True))
        return missing

    def _answer(
        self,
        chunks: Sequence[tuple[ContextGroup, CachedAnswers]],
        answers: list[PathAnswers],
        advance: Advance,
    ) -> None:
        """Add the answers of every path to some chunks, and store those that were not cached."""
        by_missing: dict[tuple[int, ...], list[tuple[ContextGroup, CachedAnswers]]] = {}
        for chunk, cached in chunks:
            # Another process may have answered it meanwhile.
            numbers = tuple(self._missing_paths(chunk, cached, answers))
            by_missing.setdefault(numbers, []).append((chunk, cached))
        for numbers, alike in by_missing.items():
            groups = [chunk for chunk, _ in alike]
            tokens = _tokens(groups)
            if not numbers:
                advance(tokens)
                continue
            paths = [self.paths[number] for number in numbers]
            new = [answers[number] for number in numbers]
            self._answer_new(groups, paths, new, tokens, advance)
            for chunk, cached in alike:
                order = chunk.requests
                cached.add(paths, [[of_path[number] for number in order] for of_path in new])

    def _answer_new(
        self,
        chunks: Sequence[ContextGroup],
        paths: Sequence[LayerPath],
        answers: list[PathAnswers],
        tokens: int,
        advance: Advance,
    ) -> None:
        """Add the answers of `paths` to chunks of `tokens`; use smaller batches if memory fails."""
        done = 0.0
        while True:
            parts: list[Prefixed] = [
                (chunk.prefix if self._branching else (), part)
                for chunk in chunks
                for part in self._batches(chunk)
            ]
            work = layer_runs(paths) * sum(map(_size, parts))

            def ran(count: int, work: int = work) -> None:
                nonlocal done
                done += tokens * count / work
                advance(tokens * count / work)

            try:
                # States of a wave are buffered together where paths branch.
                limit = self._memory_budget.buffered_tokens
                for wave in pack(parts, _size, limit // max_buffered_states(self.model, paths)):
                    tree_batches = [
                        TokenTreeBatch(part, self.model, answers, self._branching, prefix)
                        for prefix, part in wave
                    ]
                    traverse(self.model, paths, tree_batches, self._memory_budget, ran)
                break
            except RuntimeError as error:
                self._memory_budget = halved(self._memory_budget, error)
                advance(-done)
                done = 0.0
        advance(tokens - done)

    def _batches(self, chunk: ContextGroup) -> list[list[TokenTree]]:
        """Return the trees of a chunk in batches that go through a layer together."""
        budget = self._memory_budget
        if self._branching:
            trees = token_trees(chunk.contexts, min(MAX_TREE_TOKENS, budget.tokens))
            return list(batches(trees, lambda width: budget.rows(width, len(chunk.prefix))))
        contexts = [Context(chunk.prefix + part.ids, part.options) for part in chunk.contexts]
        return list(batches(unbranched_trees(contexts), budget.rows))


def _cost_without_sharing(chunks: Sequence[ContextGroup]) -> float:
    """Return the tokens of prompts that run one by one, relative to those that share tokens."""
    shared = alone = 0
    for chunk in chunks:
        shared += len(chunk.prefix)
        shared += sum(map(len, token_trees(chunk.contexts, MAX_TREE_TOKENS)))
        contexts = [Context(chunk.prefix + part.ids, part.options) for part in chunk.contexts]
        alone += sum(map(len, unbranched_trees(contexts)))
    return alone / shared


def _size(part: Prefixed) -> int:
    """Tokens of a batch, with padding and without its prefix."""
    return len(part[1]) * max(map(len, part[1]))


def _tokens(chunks: Sequence[ContextGroup]) -> int:
    return sum(chunk.num_tokens for chunk in chunks)


def _key(context: Sequence[int], continuation: Sequence[int]) -> bytes:
    """Return a short key of a request: the tokens of long prompts would take gigabytes."""
    numbers = np.array([len(context), *context, *continuation], dtype=np.int64)
    return hashlib.blake2b(numbers.tobytes(), digest_size=16).digest()
