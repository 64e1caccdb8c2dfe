"""Log-probabilities of chosen tokens at chosen positions, and of no others.

Letters: N positions, M tokens that are asked for, H hidden size, V vocabulary.
"""

import torch
from torch import Tensor

from layerprune.model.stack import Head


def scored(
    head: Head,
    normed_NH: Tensor,
    position_M: Tensor,
    token_M: Tensor,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """The log-probability [M] of a token at its position, and whether it is the likeliest [M].

    `normed_NH` has passed the final norm; `position_M` are indices into it, in rising order. Logits
    are made for `head.positions_at_once` at a time. They turn into probabilities in `dtype`, in
    that of the model if none is given; what is returned is float32.
    """
    values, likeliest = [], []
    at_once = head.positions_at_once
    starts = torch.arange(0, len(normed_NH) + at_once, at_once, device=position_M.device)
    bounds = torch.searchsorted(position_M, starts).tolist()
    for at, normed in enumerate(normed_NH.split(at_once)):
        here = slice(bounds[at], bounds[at + 1])
        logprob_NV = torch.log_softmax(head(normed), dim=-1, dtype=dtype)
        row, token = position_M[here] - at * at_once, token_M[here]
        likeliest.append(logprob_NV.argmax(dim=-1)[row] == token)
        values.append(logprob_NV[row, token].float())
    return torch.cat(values), torch.cat(likeliest)
