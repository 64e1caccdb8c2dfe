"""Relative magnitude. Letters: N tokens, S states of each, H hidden size."""

from layerprune.config.registry import metric
from layerprune.prune.metrics import Tensor, TokenMetric
from layerprune.prune.metrics.euclidean import euclidean_distances


@metric(
    "magnitude",
    reference="Samragh et al., arXiv 2309.10285, and ShortGPT, arXiv 2403.03853, for comparison",
)
class Magnitude(TokenMetric):
    """|y - x| / |x| for a state x and every later state y: 0 is unchanged.

    Unlike an angle, it sees a state that only gets longer.
    """

    def sum_over_tokens(self, states_NSH: Tensor) -> Tensor:
        """Return |y - x| / |x|, symmetric, summed over tokens."""
        states_NSH = states_NSH.double()
        length_NS1 = states_NSH.norm(dim=-1, keepdim=True)
        later_NSS = (euclidean_distances(states_NSH) / length_NS1).triu(diagonal=1)
        return (later_NSS + later_NSS.transpose(-1, -2)).sum(dim=0)
