"""Compute log-probabilities of chosen tokens at chosen positions only, and next-token losses.

Letters: B batch, T time, N positions, M chosen tokens, H hidden size, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from layerprune.model.stack import Head


def token_logprobs(
    head: Head, normed_NH: Tensor, position_M: Tensor, token_M: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the log-probability [M] of each token at its position, and if it is the argmax [M].

    `normed_NH` has passed the final norm; `position_M` are indices into it, in rising order. Logits
    are computed for `head.positions_at_once` at a time, and log-probabilities in the model's
    precision; they are returned in float32.
    """
    logprobs, greedy = [], []
    at_once = head.positions_at_once
    starts = torch.arange(0, len(normed_NH) + at_once, at_once, device=position_M.device)
    bounds = torch.searchsorted(position_M, starts).tolist()
    for number, normed in enumerate(normed_NH.split(at_once)):
        here = slice(bounds[number], bounds[number + 1])
        logprob_NV = torch.log_softmax(head(normed), dim=-1)
        row, token = position_M[here] - number * at_once, token_M[here]
        greedy.append(logprob_NV.argmax(dim=-1)[row] == token)
        logprobs.append(logprob_NV[row, token].float())
    return torch.cat(logprobs), torch.cat(greedy)


def next_token_nats(head: Head, normed_BTH: Tensor, ids_BT: Tensor) -> Tensor:
    """Return minus the log-probability of each token after the first [B, T-1], in nats, float64.

    `normed_BTH` has passed the final norm. Log-probabilities are computed in float32.
    """
    target_BT = ids_BT[:, 1:]
    chunks = zip(
        normed_BTH[:, :-1].flatten(0, 1).split(head.positions_at_once),
        target_BT.flatten().long().split(head.positions_at_once),
        strict=True,
    )
    nats = [
        cross_entropy(head(normed).float(), target, reduction="none") for normed, target in chunks
    ]
    return torch.cat(nats).double().view(target_BT.shape)
