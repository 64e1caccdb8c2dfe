"""Answers to lm-eval's log-likelihood requests, without the work that does not count.

lm-eval asks for log p(continuation | context), once for every option of a question. Its own
backend runs each pair from the start and takes logits at every position, for one model at a time.
Here all cut models of a model answer together (`shared`), the first time that one is asked.
"""

import hashlib
import time
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerprune.evaluate.answers import Answers, Chunk
from layerprune.evaluate.contexts import (
    Context,
    Group,
    Request,
    chunked,
    contexts,
    groups,
    num_too_long,
)
from layerprune.evaluate.shared import (
    Answer,
    Continued,
    Rows,
    batched,
    keeps_whole_cache,
    rows_of_a_length,
)
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import dropped
from layerprune.paths.tree import Path, layer_runs
from layerprune.paths.walk import walk
from layerprune.progress import Advance, bar, say_once

CHUNK = 256
"""Contexts whose answers are kept together: what a run that is stopped loses at most."""


class Scorer(HFLM):
    """An lm-eval model for cut models of a causal LM, equal to `HFLM` in its answers, but faster.

    `paths` are the layers that each cut model keeps; `path` is the number of the one that answers.
    The model itself is whole. Log-likelihoods of continuations are answered here, for all paths at
    once; prompts, tokenisation and generation stay lm-eval's own. What is in `stored` already is
    read from there.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        max_length: int | None = None,
        paths: Sequence[Path] | None = None,
        stored: Answers | None = None,
    ) -> None:
        super().__init__(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length
        )
        layers = tuple(range(len(decoder_stack(model).layers)))
        self.paths: Sequence[Path] = [layers] if paths is None else paths
        self.path = 0
        self._layers = layers
        self.seconds = 0.0
        """What the answers of all paths took together."""
        self._stored = stored
        self._shares = keeps_whole_cache(model)
        self._keys: dict[tuple[str, str], bytes] = {}
        self._known: dict[bytes, list[Answer]] = {}

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """The answers of the path; what no path was asked yet is answered for all of them."""
        new = {each.args: each for each in requests if each.args not in self._keys}
        if new:  # without lm-eval's bar for the tokeniser: this project's bars are enough
            super().loglikelihood(list(new.values()), disable_tqdm=True)
        return [self._known[self._keys[each.args]][self.path] for each in requests]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """lm-eval's own, of the path alone."""
        path = self.paths[self.path]
        with dropped(self.model, [layer for layer in self._layers if layer not in path]):
            return super().generate_until(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[Request],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[Answer]:
        """One answer for each request, in order; lm-eval's rolling likelihoods come here, too."""
        keys = [_key(context, continuation) for _, context, continuation in requests]
        self._keys.update((texts, key) for (texts, _, _), key in zip(requests, keys, strict=True))
        new = {
            key: each for key, each in zip(keys, requests, strict=True) if key not in self._known
        }
        if new:
            started = time.monotonic()
            self._known.update(zip(new, self._answers(list(new.values())), strict=True))
            self.seconds += time.monotonic() - started
        return [self._known[key][self.path] for key in keys]

    def _answers(self, requests: Sequence[Request]) -> list[list[Answer]]:
        """For each request the answer of every path."""
        too_long = num_too_long(requests, self.max_length)
        if too_long:
            say_once(
                f"{too_long} of {len(requests)} prompts are longer than the model's window of "
                f"{self.max_length} tokens: their beginning is cut off, as lm-eval does."
            )
        asked = contexts(requests, self.max_length)
        together = groups(asked) if self._shares else [Group((), tuple(asked))]
        chunks = [chunk for group in together for chunk in chunked(group, CHUNK)]
        parts = [self._parts(chunk) for chunk in chunks]
        found: list[dict[int, Answer]] = [{} for _ in self.paths]
        title = "answers" if len(self.paths) == 1 else f"answers of {len(self.paths)} models"
        with bar(title, total=layer_runs(self.paths) * sum(map(len, parts))) as advance:
            for chunk, some in zip(chunks, parts, strict=True):
                with self._stored.of(chunk) if self._stored else nullcontext() as stored:
                    self._answer(chunk, some, stored, found, advance)
        return [[of_path[index] for of_path in found] for index in range(len(requests))]

    def _answer(
        self,
        chunk: Group,
        parts: list[list[Context]],
        stored: Chunk | None,
        found: list[dict[int, Answer]],
        advance: Advance,
    ) -> None:
        """The answers of every path to one chunk: read where they are known, or given and kept."""
        order = [option.request for context in chunk.contexts for option in context.options]
        new = []
        for path, answers in zip(self.paths, found, strict=True):
            known = None if stored is None else stored.read(path)
            if known is None or len(known) != len(order):
                new.append((path, answers))
            else:
                answers.update(zip(order, known, strict=True))
        if new:
            paths, given = [path for path, _ in new], [answers for _, answers in new]
            kind = Continued if self._shares else Rows
            batches = [kind(part, self.device, given) for part in parts]
            walk(self.model, paths, batches, chunk.prefix, advance)
            if stored is not None:
                stored.add(paths, [[answers[at] for at in order] for answers in given])
        left = layer_runs(self.paths) - layer_runs([path for path, _ in new])
        advance(left * len(parts))

    def _parts(self, chunk: Group) -> list[list[Context]]:
        """Contexts that go through the model together."""
        if self._shares:
            return list(batched(chunk, self.batch_size))
        return rows_of_a_length(chunk, self.batch_size)


def _key(context: Sequence[int], continuation: Sequence[int]) -> bytes:
    """What stands for a request: its tokens would take gigabytes for many long prompts."""
    numbers = np.array([len(context), *context, *continuation], dtype=np.int64)
    return hashlib.blake2b(numbers.tobytes(), digest_size=16).digest()
