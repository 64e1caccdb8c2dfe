"""Turn documents into token sequences of one length.

Letters: S sequences, T tokens in each, N tokens of all of them.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from os import SEEK_END
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from layerprune.data.conversations import RenderedText
from layerprune.errors import UserError
from layerprune.runtime.atomic_files import replacing
from layerprune.runtime.cache import cached

TOKENIZER_BATCH = 256
"""Documents that go to the tokenizer together; fast tokenizers use every core."""


def pack_documents(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    most: int,
    advance: Callable[[int], None] = lambda sequences: None,
) -> Tensor:
    """Return token ids [S, T], int32, of at most `most` sequences of `length` tokens, unpadded.

    Documents follow each other, each with the tokenizer's special tokens and an end-of-text token
    after it, and are split wherever a sequence is full. Only as many documents are read as needed.
    Raises `UserError` if they do not fill a single sequence.
    """
    ids_N = torch.empty(most * length, dtype=torch.int32)
    filled = 0
    # The first batch is a single document, since little text may be enough.
    remaining, size = iter(documents), 1
    while filled < len(ids_N) and (batch := list(islice(remaining, size))):
        size = TOKENIZER_BATCH
        for row in _token_rows(batch, tokenizer):
            part = torch.tensor(row, dtype=torch.int32)[: len(ids_N) - filled]
            ids_N[filled : filled + len(part)] = part
            before, filled = filled, filled + len(part)
            advance(filled // length - before // length)
    count = filled // length
    if count == 0:
        raise UserError(
            f"heal.sequence_length={length}: the healing text has only {filled} tokens. "
            "Give more text or a smaller length."
        )
    return ids_N[: count * length].view(count, length)


def _token_rows(batch: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """Yield the token ids of each document; chat templates have written special tokens already."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for rendered, documents in groupby(batch, lambda text: isinstance(text, RenderedText)):
        rows = tokenizer(list(documents), add_special_tokens=not rendered, verbose=False)
        for row in rows["input_ids"]:
            yield row if rendered and row[-1:] == end else [*row, *end]


def cached_sequences(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """Return token ids [S, T], int32, memory-mapped from `path`, or made and stored there."""
    return cached(path, _read_sequences, make, _write_sequences)


def _read_sequences(path: Path) -> Tensor | None:
    ids = np.load(path, mmap_mode="c")
    digest = hashlib.sha256(ids.data).digest()
    with path.open("rb") as file:
        file.seek(-len(digest), SEEK_END)
        return torch.from_numpy(ids) if file.read() == digest else None


def _write_sequences(path: Path, ids_ST: Tensor) -> None:
    with replacing(path) as beside, beside.open("wb") as file:
        np.save(file, ids_ST.numpy())
        # A hash after the array, which NumPy does not read.
        file.write(hashlib.sha256(ids_ST.numpy().data).digest())


def cut_documents(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, length: int, most: int
) -> Tensor:
    """Return token ids [S, T] of at most `most` sequences of `length` tokens, S >= 1.

    Each document is cut from its start, so that no sequence spans two documents; an incomplete last
    sequence is left out. Every sequence begins with the BOS token if the tokenizer adds one. If
    there are more than `most` sequences, they are taken evenly from all documents; from a stream,
    the first sequence of each of the first documents that are long enough. Raises `UserError` if no
    document is.
    """
    start = tokenizer("")["input_ids"][:1]
    bos = start if start == [tokenizer.bos_token_id] else []
    step = length - len(bos)
    sequences = []
    streamed = not isinstance(documents, Sequence)
    for document in documents:
        ids = tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        if isinstance(document, RenderedText) and bos == ids[:1]:
            ids = ids[1:]  # written by the chat template
        starts = range(0, len(ids) - step + 1, step)
        sequences += [bos + ids[n : n + step] for n in (starts[:1] if streamed else starts)]
        if streamed and len(sequences) == most:
            break
    if not sequences:
        raise UserError(
            f"data.sequence_length={length}: no document of this part of the text has so many "
            "tokens. Give longer text or a smaller length."
        )
    count = min(most, len(sequences))
    chosen = [sequences[index * len(sequences) // count] for index in range(count)]
    return torch.tensor(chosen, dtype=torch.long)
