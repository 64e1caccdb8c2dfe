"""Euclidean distance. Letters: N tokens, S states of each, H hidden size."""

from layerprune.config.registry import metric
from layerprune.prune.metrics import Tensor, TokenMetric


def euclidean_distances(states_NSH: Tensor) -> Tensor:
    """Return |y - x| for every two of S states of each token: [N, S, S] in float64."""
    import torch

    states_NSH = states_NSH.double()
    # Plain differences: computed from products, differences between long states would be lost.
    return torch.cdist(states_NSH, states_NSH, compute_mode="donot_use_mm_for_euclid_dist")


@metric("euclidean", reference="the plain distance, for comparison")
class Euclidean(TokenMetric):
    """|y - x|, in the states' own units.

    In most models states get longer from layer to layer, and distances between them too: it favours
    early layers, which `magnitude` does not.
    """

    def sum_over_tokens(self, states_NSH: Tensor) -> Tensor:
        """Return |y - x|, summed over tokens."""
        return euclidean_distances(states_NSH).sum(dim=0)
