"""How far layers move a state.

Letters: N tokens, S states of each, H hidden size.
"""

import torch
from torch import Tensor

from layerprune.similarity.metric import Metric


def lengths_between(states_NSH: Tensor) -> Tensor:
    """|y - x| for every two of S states: [S, S], in the states' own units, summed over tokens.

    States grow from layer to layer in most models, and distances between them with it: it favours
    early layers, which `magnitude` does not.
    """
    states_NSH = states_NSH.double()
    # Differences themselves: by way of products, those of long states would be lost.
    return torch.cdist(states_NSH, states_NSH, compute_mode="donot_use_mm_for_euclid_dist").sum(
        dim=0
    )


euclidean = Metric(lengths_between)
