"""Cosine distance, as in LLM-Streamline (Chen et al., arXiv 2403.19135).

Letters: N tokens, S states of each, H hidden size.
"""

import torch
from torch import Tensor

from layerprune.similarity.metric import Metric


def cosine_distances(states_NSH: Tensor) -> Tensor:
    """1 - cosine of the angle between every two of S states: [S, S], summed over tokens.

    One lies in [0, 2], 1 = orthogonal. It ranks two states as their angle does; means over tokens
    may rank otherwise, since a large angle weighs more.
    """
    unit_NSH = torch.nn.functional.normalize(states_NSH.double(), dim=-1)
    distance_NSS = (1 - unit_NSH @ unit_NSH.transpose(-1, -2)).clamp(0.0, 2.0)
    torch.diagonal(distance_NSS, dim1=-2, dim2=-1).zero_()
    return distance_NSS.sum(dim=0)


cosine = Metric(cosine_distances)
