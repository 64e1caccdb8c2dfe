"""Answers to lm-eval's log-likelihood requests, without the work that does not count.

lm-eval asks for log p(continuation | context), once for every option of a question. Its own
backend runs each pair from the start and takes logits at every position, for one model at a time.
Here all cut models of a model answer together, the first time that one is asked: their paths
through the layers, and the questions' tokens, run once where they begin alike.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerprune.evaluate.answers import Answers, Chunk
from layerprune.evaluate.batch import Rows, takes_trees
from layerprune.evaluate.contexts import (
    Answer,
    Context,
    Group,
    Ids,
    Request,
    chunked,
    contexts,
    groups,
    num_too_long,
)
from layerprune.evaluate.rows import Row, batches, chains, rows
from layerprune.model.segment import by_layers
from layerprune.model.spread import input_device
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import dropped
from layerprune.paths.passes import announce
from layerprune.paths.room import Room, smaller
from layerprune.paths.tree import Path, layer_runs
from layerprune.paths.walk import most_waiting, walk
from layerprune.progress import bar, say, say_once

CHUNK = 256
"""Contexts whose answers are kept together: what a run that is stopped loses at most."""

ROW = 256
"""Tokens in a row: each of them is held against all, so that a longer row costs more attention."""

NOT_YET: Answer = (0.0, False)
"""Stands for an answer that nobody reads."""

GENERATED_TOGETHER = 8
"""Prompts that lm-eval's own generation takes at a time."""


class Scorer(HFLM):
    """An lm-eval model for cut models of a causal LM, equal to `HFLM` in its answers, but faster.

    `paths` are the layers that each cut model keeps; `path` is the number of the one that answers.
    The model itself is whole. Log-likelihoods of continuations are answered here, for all paths at
    once; prompts, tokenisation and generation stay lm-eval's own. What is in `stored` already is
    read from there, and several processes that have the same `stored` share the questions. One that
    is `helping` leaves to the others what they are at, and what is written: its own answers are
    nothing to go by.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        room: Room | None = None,
        max_length: int | None = None,
        paths: Sequence[Path] | None = None,
        stored: Answers | None = None,
        helping: bool = False,
    ) -> None:
        self._encoded = lru_cache(maxsize=2)(super().tok_encode)
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",  # not what a type is known for, where it is half of another model
            batch_size=GENERATED_TOGETHER,
            max_length=max_length,
        )
        self._device = input_device(model)
        layers = tuple(range(len(decoder_stack(model).layers)))
        self.paths: Sequence[Path] = [layers] if paths is None else paths
        self.path = 0
        self._layers = layers
        self.seconds = 0.0
        """What the answers of all paths took together."""
        self._stored = stored
        self._all = not helping
        self._room = Room.of(model) if room is None else room
        self._keys: dict[tuple[str, str], bytes] = {}
        self._known: dict[bytes, list[Answer]] = {}
        self._made: list[Request] | None = None
        """Requests as tokens, while they are made."""

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """The answers of the path; what no path was asked yet is answered for all of them."""
        new = {each.args: each for each in requests if each.args not in self._keys}
        if new:
            self._answer_all(self._as_tokens(list(new.values())))
        return [self._known[self._keys[each.args]][self.path] for each in requests]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """lm-eval's own, of the path alone."""
        if not self._all:
            return [""] * len(requests)
        path = self.paths[self.path]
        with dropped(self.model, [layer for layer in self._layers if layer not in path]):
            return super().generate_until(requests, disable_tqdm=True)

    def tok_encode(self, *args: Any, **kwargs: Any) -> list[int]:
        """lm-eval's own, which it asks again for a context with each of its options."""
        return list(self._encoded(*args, **kwargs))

    def _as_tokens(self, requests: list[Instance]) -> list[Request]:
        """What lm-eval makes of texts, by the thousand: a run may have many, and takes its time."""
        self._made = []
        with bar("prompts", total=len(requests)) as advance:
            for at in range(0, len(requests), 1000):
                some = requests[at : at + 1000]
                super().loglikelihood(some, disable_tqdm=True)  # goes on just below
                advance(len(some))
        made, self._made = self._made, None
        return made

    def _loglikelihood_tokens(
        self,
        requests: Sequence[Request],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[Answer]:
        """One answer for each request, in order; lm-eval's rolling likelihoods come here, too."""
        if self._made is None:
            return self._answer_all(requests)
        for texts, context, continuation in requests:
            ids = tuple(context)
            if self._made and self._made[-1][1] == ids:
                ids = self._made[-1][1]  # once for all options: prompts are long
            self._made.append((texts, ids, tuple(continuation)))
        return [NOT_YET] * len(requests)

    def _answer_all(self, requests: Sequence[Request]) -> list[Answer]:
        """The path's answers; what is not known yet is answered for all paths."""
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
        found: list[dict[int, Answer]] = [{} for _ in self.paths]
        new = [
            chunk
            for group in groups(asked)
            for chunk in chunked(group, CHUNK)
            if self._unknown(chunk, self._stored.read(chunk) if self._stored else None, found)
        ]
        num_new = sum(len(chunk.contexts) for chunk in new)
        if num_new < len(asked):
            say(f"{len(asked) - num_new} of {len(asked)} questions were answered before.")
        title = "answers" if len(self.paths) == 1 else f"answers of {len(self.paths)} models"
        _ = new and self._trees  # tried before the bar starts: that takes passes of its own
        passes = list(self._passes(new))
        waiting = most_waiting(self.model, self.paths)
        announce(
            self.model, title, self.paths, self._room,
            passes=sum(-(-waiting * _total(some) // self._room.waiting) for some in passes),
            tokens=_total(new), positions=num_new,
        )  # fmt: skip
        with bar(title, total=num_new) as advance:
            # By tokens, for the time that is left to be true: questions are of many lengths.
            a_token = num_new / max(1, _total(new))

            def move(tokens: float) -> None:
                advance(a_token * tokens)

            taken = [chunk for some in passes for chunk in self._answer_free(some, found, move)]
            for chunk in taken if self._all else ():
                with self._stored.of(chunk) if self._stored else nullcontext() as stored:
                    self._answer([(chunk, stored)], found, move)
        return [
            [of_path.get(index, NOT_YET) for of_path in found] for index in range(len(requests))
        ]

    def _passes(self, chunks: Sequence[Group]) -> Iterator[list[Group]]:
        """Chunks that are answered together: each alone, where a pass does not read all weights."""
        if not by_layers(self.model):
            yield from ([chunk] for chunk in chunks)
            return
        room = self._room.waiting // most_waiting(self.model, self.paths)
        some: list[Group] = []
        for chunk in chunks:
            if some and _total((*some, chunk)) > room:
                yield some
                some = []
            some.append(chunk)
        if some:
            yield some

    def _answer_free(
        self, chunks: Sequence[Group], found: list[dict[int, Answer]], move: Callable[[float], None]
    ) -> list[Group]:
        """Answer what no other process is at; returns the rest."""
        if self._stored is None:
            self._answer([(chunk, None) for chunk in chunks], found, move)
            return []
        taken = []
        with ExitStack() as locks:
            free = []
            for chunk in chunks:
                stored = locks.enter_context(self._stored.of_free(chunk))
                if stored is None:
                    taken.append(chunk)
                else:
                    free.append((chunk, stored))
            self._answer(free, found, move)
        return taken

    @cached_property
    def _trees(self) -> bool:
        trees = takes_trees(self.model)
        if not trees:
            held = getattr(self.model, "is_loaded_in_8bit", False)
            why = (
                "LLM.int8 rounds a token by the others that run with it"
                if held
                else "its decoder does not take a tree of tokens"
            )
            say_once(
                f"{self.model.config.model_type}: prompts run one by one and share layers alone, "
                f"since {why}."
            )
        return trees

    def _unknown(
        self, chunk: Group, stored: Chunk | None, found: list[dict[int, Answer]]
    ) -> list[int]:
        """The numbers of the paths whose answers are not stored; what is stored is found."""
        if stored is None:
            return list(range(len(self.paths)))
        order = chunk.requests
        unknown = []
        for number, path in enumerate(self.paths):
            known = stored.of(path)
            if known is None or len(known) != len(order):
                unknown.append(number)
            else:
                found[number].update(zip(order, known, strict=True))
        return unknown

    def _answer(
        self,
        chunks: Sequence[tuple[Group, Chunk | None]],
        found: list[dict[int, Answer]],
        move: Callable[[float], None],
    ) -> None:
        """The answers of every path to some chunks: given, and kept, where they are not stored."""
        alike: dict[tuple[int, ...], list[tuple[Group, Chunk | None]]] = {}
        for chunk, stored in chunks:
            # Another process may have been faster.
            numbers = tuple(self._unknown(chunk, stored, found))
            alike.setdefault(numbers, []).append((chunk, stored))
        for numbers, some in alike.items():
            tokens = _total([chunk for chunk, _ in some])
            if not numbers:
                move(tokens)
                continue
            paths, new = [self.paths[number] for number in numbers], [found[at] for at in numbers]
            self._answer_new([chunk for chunk, _ in some], paths, new, tokens, move)
            for chunk, stored in some:
                if stored is not None:
                    order = chunk.requests
                    stored.add(paths, [[answers[at] for at in order] for answers in new])

    def _answer_new(
        self,
        chunks: Sequence[Group],
        paths: Sequence[Path],
        new: list[dict[int, Answer]],
        tokens: int,
        move: Callable[[float], None],
    ) -> None:
        """Put the answers of some paths to all of some chunks into `new`."""
        moved = 0.0
        while True:
            parts = [
                (chunk.prefix if self._trees else (), part)
                for chunk in chunks
                for part in self._batches(chunk)
            ]
            work = layer_runs(paths) * sum(_size(part) for _, part in parts)

            def ran(count: int, work: int = work) -> None:
                nonlocal moved
                moved += tokens * count / work
                move(tokens * count / work)

            try:
                for wave in self._waves(parts, most_waiting(self.model, paths)):
                    batches = [
                        Rows(part, self.model, new, self._trees, prefix) for prefix, part in wave
                    ]
                    walk(self.model, paths, batches, self._room, ran)
                break
            except RuntimeError as error:
                self._room = smaller(self._room, error)
                move(-moved)
                moved = 0.0
        move(tokens - moved)

    def _batches(self, chunk: Group) -> list[list[Row]]:
        """Rows that go through the model together."""
        tokens = self._room.tokens
        if self._trees:
            return list(batches(rows(chunk.contexts, min(ROW, tokens)), tokens))
        whole = [Context(chunk.prefix + each.ids, each.options) for each in chunk.contexts]
        return list(batches(chains(whole), tokens))

    def _waves(
        self, parts: Sequence[tuple[Ids, list[Row]]], waiting: int
    ) -> Iterator[list[tuple[Ids, list[Row]]]]:
        """Batches, with what comes before each, whose states may wait together where paths part."""
        some: list[tuple[Ids, list[Row]]] = []
        size = 0
        for prefix, part in parts:
            if some and waiting * (size + _size(part)) > self._room.waiting:
                yield some
                some, size = [], 0
            some.append((prefix, part))
            size += _size(part)
        if some:
            yield some


def _size(part: Sequence[Row]) -> int:
    return len(part) * max(map(len, part))


def _total(chunks: Sequence[Group]) -> int:
    return sum(chunk.num_tokens for chunk in chunks)


def _key(context: Sequence[int], continuation: Sequence[int]) -> bytes:
    """What stands for a request: its tokens would take gigabytes for many long prompts."""
    numbers = np.array([len(context), *context, *continuation], dtype=np.int64)
    return hashlib.blake2b(numbers.tobytes(), digest_size=16).digest()
