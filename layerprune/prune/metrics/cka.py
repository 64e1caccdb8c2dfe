"""Linear centred kernel alignment, from minibatches.

Letters: N tokens, S states of each, H hidden size.
"""

from layerprune.config.registry import metric
from layerprune.errors import UserError
from layerprune.prune.metrics import Tensor, TokenMetric

MIN_TOKENS = 4
"""HSIC_1 divides by N (N - 3)."""


@metric("cka", reference="Kornblith et al., arXiv 1905.00414; Nguyen et al., arXiv 2010.15327")
class CKA(TokenMetric):
    """1 - linear CKA: 0 is equal up to rotation and scale, 1 is expected of independent states.

    An estimate may lie above 1.
    """

    def sum_over_tokens(self, states_NSH: Tensor) -> Tensor:
        """Return N times HSIC_1 between the N tokens' states at every two of S layers.

        HSIC_1(K, L) with linear kernels K = X X', L = Y Y' is 0 in expectation where X and Y are
        independent, whatever N: Song et al. (2012), equation 3 of Nguyen et al. Computed as the
        product of the two kernels, each centred so that all its rows sum to 0 without its diagonal
        (Szekely and Rizzo, 2014), which is the same number in fewer steps.
        """
        import torch

        count = len(states_NSH)
        if count < MIN_TOKENS:
            raise UserError(
                f"metric=cka needs {MIN_TOKENS} tokens at a time, and there are {count}: use a "
                "larger data.sequence_length with metric.tokens=all, or a "
                "data.calibration_sequences that is a multiple of 8 with metric.tokens=last."
            )
        states_SNH = states_NSH.double().transpose(0, 1)
        # It changes nothing but the rounding: a few long states would leave little of the others.
        states_SNH = states_SNH - states_SNH.mean(dim=1, keepdim=True)
        kernel_SNN = states_SNH @ states_SNH.transpose(-1, -2)
        torch.diagonal(kernel_SNN, dim1=-2, dim2=-1).zero_()
        row_SN1 = kernel_SNN.sum(dim=-1, keepdim=True)
        total_S11 = row_SN1.sum(dim=-2, keepdim=True)
        kernel_SNN -= (row_SN1 + row_SN1.transpose(-1, -2)) / (count - 2)
        kernel_SNN += total_S11 / ((count - 1) * (count - 2))
        torch.diagonal(kernel_SNN, dim1=-2, dim2=-1).zero_()
        kernel_SM = kernel_SNN.flatten(start_dim=1)
        return kernel_SM @ kernel_SM.T / (count - 3)

    def distances(self, mean_SS: Tensor) -> Tensor:
        """Return 1 - CKA from mean HSIC_1.

        Source: equation 2 of Nguyen et al., where the mean is taken before the quotient.
        """
        itself_S = mean_SS.diagonal()
        distance_SS = 1 - mean_SS / (itself_S[:, None] * itself_S[None, :]).sqrt()
        distance_SS.diagonal().zero_()
        return distance_SS
