"""Angular distance. Letters: N tokens, S states of each, H hidden size."""

import math

from layerprune.config.registry import metric
from layerprune.prune.metrics import Tensor, TokenMetric


@metric("angular", reference="Gromov et al., arXiv 2403.17887, section 3.2")
class Angular(TokenMetric):
    """Angle between two states, in units of pi: 0.5 is orthogonal."""

    def sum_over_tokens(self, states_NSH: Tensor) -> Tensor:
        """Computed in float64: in bfloat16 an angle of 0.02 is off by a third."""
        import torch

        unit_NSH = torch.nn.functional.normalize(states_NSH.double(), dim=-1)
        cosine_NSS = (unit_NSH @ unit_NSH.transpose(-1, -2)).clamp(-1.0, 1.0)
        angle_NSS = torch.arccos(cosine_NSS) / math.pi
        # A state's angle to itself is 0; rounding inside the arccos would say 1e-8.
        torch.diagonal(angle_NSS, dim1=-2, dim2=-1).zero_()
        return angle_NSS.sum(dim=0)
