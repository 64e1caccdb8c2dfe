"""Documents as token sequences of one length.

Letters: S sequences, T tokens in each.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from os import SEEK_END
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from layerprune.errors import UserError
from layerprune.files import replacing

TOKENIZED_AT_ONCE = 256
"""Documents that go to the tokenizer together; fast ones use every core."""

SEAL_BYTES = hashlib.sha256().digest_size
"""At the end of a file of tokens: a hash of them, so that damage is seen."""


def packed(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    most: int,
    advance: Callable[[int], None] = lambda sequences: None,
) -> Tensor:
    """Token ids [S, T], int32, of at most `most` sequences of `length` tokens, nothing left out.

    Documents follow each other, each with the special tokens that the tokenizer adds and an
    end-of-text token between them, and are cut wherever a sequence is full. No more documents are
    read than it takes. Raises `UserError` if they do not fill a single sequence.
    """
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids_N = torch.empty(most * length, dtype=torch.int32)
    filled = 0
    for some in _groups(documents, TOKENIZED_AT_ONCE):
        for row in tokenizer(some, verbose=False)["input_ids"]:
            part = torch.tensor([*row, *end], dtype=torch.int32)[: len(ids_N) - filled]
            ids_N[filled : filled + len(part)] = part
            before, filled = filled, filled + len(part)
            advance(filled // length - before // length)
        if filled == len(ids_N):
            break
    count = filled // length
    if count == 0:
        raise UserError(
            f"heal.sequence_length={length}: the healing text has {filled} tokens only."
        )
    return ids_N[: count * length].view(count, length)


def stored_sequences(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """Token ids [S, T], int32, mapped into memory from `path`; made and kept if not there whole."""
    try:
        ids = np.load(path, mmap_mode="c")
        with path.open("rb") as file:
            file.seek(-SEAL_BYTES, SEEK_END)
            if file.read() == hashlib.sha256(ids.data).digest():
                return torch.from_numpy(ids)
    except (OSError, ValueError, EOFError):
        pass  # not there, or damaged: it is made again
    ids_ST = make()
    with replacing(path) as beside, beside.open("wb") as file:
        np.save(file, ids_ST.numpy())
        # NumPy reads no further than it must.
        file.write(hashlib.sha256(ids_ST.numpy().data).digest())
    return ids_ST


def _groups(documents: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lists of so many documents; the first is short, since little text may be enough."""
    rest = iter(documents)
    some = list(islice(rest, 1))
    while some:
        yield some
        some = list(islice(rest, size))


def cut(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, length: int, most: int
) -> Tensor:
    """Token ids [S, T] of at most `most` sequences of `length` tokens, S >= 1.

    Each document is cut from its start, so no sequence spans two documents; a remainder that would
    not fill one is left out. Every sequence begins with the BOS token if the tokenizer adds one.
    Where there are more sequences than asked for, they are taken evenly over all documents; of a
    stream, whose documents are many, the first sequence of each of the first ones that are long
    enough. Raises `UserError` if no document is.
    """
    start = tokenizer("")["input_ids"][:1]
    bos = start if start == [tokenizer.bos_token_id] else []
    step = length - len(bos)
    windows = []
    streamed = not isinstance(documents, Sequence)
    for document in documents:
        ids = tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        starts = range(0, len(ids) - step + 1, step)
        windows += [bos + ids[at : at + step] for at in (starts[:1] if streamed else starts)]
        if streamed and len(windows) == most:
            break
    if not windows:
        raise UserError(
            f"data.sequence_length={length}: no document of this part of the text has so many "
            "tokens. Give longer text or a smaller length."
        )
    count = min(most, len(windows))
    chosen = [windows[index * len(windows) // count] for index in range(count)]
    return torch.tensor(chosen, dtype=torch.long)
