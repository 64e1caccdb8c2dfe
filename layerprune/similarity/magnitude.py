"""How much layers add to the state that enters them, relative to its length.

Letters: N tokens, S states of each, H hidden size.
"""

import torch
from torch import Tensor

from layerprune.similarity.metric import Metric


def relative_lengths(states_NSH: Tensor) -> Tensor:
    """|y - x| / |x| for a state x and every later state y: [S, S], symmetric, summed over tokens.

    0 is unchanged. Unlike an angle it sees a state that only grows. Source: the relative magnitude
    that Samragh et al. (arXiv 2309.10285) and ShortGPT (arXiv 2403.03853) compare their own scores
    with.
    """
    states_NSH = states_NSH.double()
    apart_NSS = torch.cdist(states_NSH, states_NSH, compute_mode="donot_use_mm_for_euclid_dist")
    length_NS1 = states_NSH.norm(dim=-1, keepdim=True)
    later_NSS = torch.triu(apart_NSS / length_NS1, diagonal=1)
    return (later_NSS + later_NSS.transpose(-1, -2)).sum(dim=0)


magnitude = Metric(relative_lengths)
