"""Documents as token sequences of one length.

Letters: S sequences, T tokens in each.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from layerprune.errors import UserError


def packed(
    documents: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int, most: int
) -> Tensor:
    """Token ids [S, T] of at most `most` sequences of `length` tokens, with nothing left out.

    Documents follow each other, each with the special tokens that the tokenizer adds and an
    end-of-text token between them, and are cut wherever a sequence is full. Raises `UserError` if
    they do not fill a single one.
    """
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    stream: list[int] = []
    for document in documents:
        stream += [*tokenizer(document, verbose=False)["input_ids"], *end]
        if len(stream) >= most * length:
            break
    count = min(most, len(stream) // length)
    if count == 0:
        raise UserError(
            f"heal.sequence_length={length}: the healing text has {len(stream)} tokens only."
        )
    return torch.tensor(stream[: count * length], dtype=torch.long).view(count, length)


def cut(
    documents: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int, most: int
) -> Tensor:
    """Token ids [S, T] of at most `most` sequences of `length` tokens, S >= 1.

    Each document is cut from its start, so no sequence spans two documents; a remainder that would
    not fill one is left out. Every sequence begins with the BOS token if the tokenizer adds one.
    Where there are more sequences than asked for, they are taken evenly over all documents. Raises
    `UserError` if no document is long enough.
    """
    start = tokenizer("")["input_ids"][:1]
    bos = start if start == [tokenizer.bos_token_id] else []
    step = length - len(bos)
    windows = []
    for document in documents:
        ids = tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        windows += [bos + ids[at : at + step] for at in range(0, len(ids) - step + 1, step)]
    if not windows:
        raise UserError(
            f"data.sequence_length={length}: no document of this part of the text has so many "
            "tokens. Give longer text or a smaller length."
        )
    count = min(most, len(windows))
    chosen = [windows[index * len(windows) // count] for index in range(count)]
    return torch.tensor(chosen, dtype=torch.long)
