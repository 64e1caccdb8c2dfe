"""Cosine distance, as in LLM-Streamline (arXiv 2403.19135) and, between neighbours, ShortGPT."""

import torch
from torch import Tensor


def cosine(states_BSH: Tensor) -> Tensor:
    """1 - cosine of the angle between every two of S states: [B, S, S] in [0, 2], 1 = orthogonal.

    It ranks two states as their angle does; means over sequences may rank otherwise, since a large
    angle weighs more.
    """
    unit_BSH = torch.nn.functional.normalize(states_BSH.double(), dim=-1)
    distance_BSS = (1 - unit_BSH @ unit_BSH.transpose(-1, -2)).clamp(0.0, 2.0)
    torch.diagonal(distance_BSS, dim1=-2, dim2=-1).zero_()
    return distance_BSS
