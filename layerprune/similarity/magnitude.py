"""How much layers add to the state that enters them, relative to its length."""

import torch
from torch import Tensor


def magnitude(states_BSH: Tensor) -> Tensor:
    """|y - x| / |x| for a state x and every later state y: [B, S, S], symmetric, 0 = unchanged.

    Unlike an angle it sees a state that only grows. Source: the relative magnitude that Samragh et
    al. (arXiv 2309.10285) and ShortGPT (arXiv 2403.03853) compare their own scores with.
    """
    states_BSH = states_BSH.double()
    apart_BSS = torch.cdist(states_BSH, states_BSH, compute_mode="donot_use_mm_for_euclid_dist")
    length_BS1 = states_BSH.norm(dim=-1, keepdim=True)
    later_BSS = torch.triu(apart_BSS / length_BS1, diagonal=1)
    return later_BSS + later_BSS.transpose(-1, -2)
