"""Angular distance (Gromov et al., arXiv 2403.17887, section 3.2)."""

import math

import torch
from torch import Tensor


def angular(states_BSH: Tensor) -> Tensor:
    """Angle between every two of S states, in units of pi: [B, S, S] in [0, 1], 0.5 = orthogonal.

    Computed in float64: in bfloat16 an angle of 0.02 is off by a third.
    """
    unit_BSH = torch.nn.functional.normalize(states_BSH.double(), dim=-1)
    cosine_BSS = (unit_BSH @ unit_BSH.transpose(-1, -2)).clamp(-1.0, 1.0)
    angle_BSS = torch.arccos(cosine_BSS) / math.pi
    # A state's angle to itself is 0; rounding inside the arccos would say 1e-8.
    torch.diagonal(angle_BSS, dim1=-2, dim2=-1).zero_()
    return angle_BSS
