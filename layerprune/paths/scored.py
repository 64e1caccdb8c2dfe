"""Log-probabilities of chosen tokens at chosen positions, and of no others.

Letters: N positions, H hidden size, V vocabulary.
"""

import torch
from torch import Tensor

from layerprune.model.stack import Head

LOGITS_AT_ONCE = 2**26
"""Logits are made for so many positions at a time that there are about as many of them."""


def scored(
    head: Head, normed_NH: Tensor, token_N: Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """The log-probability [N] of a token at each position, and whether it is the likeliest [N].

    `normed_NH` has passed the final norm. Logits turn into probabilities in `dtype`, in that of the
    model if none is given; what is returned is float32.
    """
    values, likeliest = [], []
    at_once = max(1, LOGITS_AT_ONCE // head.vocabulary)
    for normed, token in zip(normed_NH.split(at_once), token_N.split(at_once), strict=True):
        logprob_NV = torch.log_softmax(head(normed), dim=-1, dtype=dtype)
        likeliest.append(logprob_NV.argmax(dim=-1) == token)
        values.append(logprob_NV.gather(1, token[:, None])[:, 0].float())
    return torch.cat(values), torch.cat(likeliest)
