"""Cosine distance. Letters: N tokens, S states of each, H hidden size."""

from layerprune.config.registry import metric
from layerprune.prune.metrics import Tensor, TokenMetric


@metric("cosine", reference="LLM-Streamline, Chen et al., arXiv 2403.19135")
class Cosine(TokenMetric):
    """1 - cosine of the angle between two states, in [0, 2]: 1 is orthogonal.

    It ranks two states as their angle does. Means over tokens may rank otherwise, since a large
    angle weighs more.
    """

    def sum_over_tokens(self, states_NSH: Tensor) -> Tensor:
        """Return 1 - cosine, summed over tokens."""
        import torch

        unit_NSH = torch.nn.functional.normalize(states_NSH.double(), dim=-1)
        distance_NSS = (1 - unit_NSH @ unit_NSH.transpose(-1, -2)).clamp(0.0, 2.0)
        torch.diagonal(distance_NSS, dim1=-2, dim2=-1).zero_()
        return distance_NSS.sum(dim=0)
