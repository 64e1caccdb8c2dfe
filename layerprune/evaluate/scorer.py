"""Answers to lm-eval's log-likelihood requests, without the work that does not count.

lm-eval asks for log p(continuation | context), once for every option of a question. Its own
backend runs each pair from the start and takes logits at every position, for one model at a time.
Here all cut models of a model answer together (`shared`), the first time that one is asked.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerprune.evaluate.contexts import Request, contexts, groups, num_too_long
from layerprune.evaluate.shared import (
    Answer,
    Batch,
    Questions,
    Rows,
    batched,
    keeps_whole_cache,
    num_steps,
    walk,
)
from layerprune.evaluate.tree import Path
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import dropped
from layerprune.progress import bar, say_once

Work = list[tuple[tuple[int, ...], list[Batch]]]


class Scorer(HFLM):
    """An lm-eval model for cut models of a causal LM, equal to `HFLM` in its answers, but faster.

    `paths` are the layers that each cut model keeps; `path` is the number of the one that answers.
    The model itself is whole. Log-likelihoods of continuations are answered here, for all paths at
    once; prompts, tokenisation, rolling likelihoods and generation stay lm-eval's own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        max_length: int | None = None,
        paths: Sequence[Path] | None = None,
    ) -> None:
        super().__init__(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length
        )
        layers = tuple(range(len(decoder_stack(model).layers)))
        self.paths: Sequence[Path] = [layers] if paths is None else paths
        self.path = 0
        self._layers = layers
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
            self._known.update(zip(new, self._answers(list(new.values())), strict=True))
        return [self._known[key][self.path] for key in keys]

    def _answers(self, requests: Sequence[Request]) -> list[list[Answer]]:
        """For each request the answer of every path."""
        too_long = num_too_long(requests, self.max_length)
        if too_long:
            say_once(
                f"{too_long} of {len(requests)} prompts are longer than the model's window of "
                f"{self.max_length} tokens: their beginning is cut off, as lm-eval does."
            )
        found: list[dict[int, Answer]] = [{} for _ in self.paths]
        work = self._work(requests, found)
        title = "answers" if len(self.paths) == 1 else f"answers of {len(self.paths)} models"
        with torch.inference_mode(), bar(title, total=num_steps(self.paths, work)) as advance:
            walk(self.model, self.paths, work, advance)
        return [[of_path[index] for of_path in found] for index in range(len(requests))]

    def _work(self, requests: Sequence[Request], found: list[dict[int, Answer]]) -> Work:
        asked = contexts(requests, self.max_length)
        if keeps_whole_cache(self.model):
            return [
                (
                    group.prefix,
                    [
                        Questions(some, self.device, found)
                        for some in batched(group, self.batch_size)
                    ],
                )
                for group in groups(asked)
            ]
        # Rows of about one length together: the longest first, so that memory shows at once.
        rows = [(context.ids, option) for context in asked for option in context.options]
        rows.sort(key=lambda row: len(row[0]) + len(row[1].ids), reverse=True)
        parts = [rows[at : at + self.batch_size] for at in range(0, len(rows), self.batch_size)]
        return [((), [Rows(part, self.device, found) for part in parts])]


def _key(context: Sequence[int], continuation: Sequence[int]) -> bytes:
    """What stands for a request: its tokens would take gigabytes for many long prompts."""
    numbers = np.array([len(context), *context, *continuation], dtype=np.int64)
    return hashlib.blake2b(numbers.tobytes(), digest_size=16).digest()
