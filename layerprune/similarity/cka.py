"""Linear centred kernel alignment (Kornblith et al., arXiv 1905.00414), from minibatches.

Letters: N tokens, S states of each, H hidden size.
"""

import torch
from torch import Tensor

from layerprune.errors import UserError
from layerprune.similarity.metric import Metric

FEWEST = 4
"""HSIC_1 divides by N (N - 3)."""


def unbiased_hsic(states_NSH: Tensor) -> Tensor:
    """N times HSIC_1 between the N tokens' states at every two of S places: [S, S], float64.

    HSIC_1(K, L) with linear kernels K = X X', L = Y Y', which is 0 in expectation where X and Y are
    independent, whatever N: Song et al. (2012), equation 3 of Nguyen et al. (arXiv 2010.15327).
    Computed as the product of the two kernels, each centred so that all its rows sum to 0 without
    its diagonal (Szekely and Rizzo, 2014), which is the same number in fewer steps.
    """
    count = len(states_NSH)
    if count < FEWEST:
        raise UserError(
            f"metric=cka needs {FEWEST} tokens at a time, and there are {count}: with "
            "metric.tokens=all take a larger data.sequence_length, with metric.tokens=last a "
            "data.calibration_sequences that is a multiple of 8."
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


def misalignment(hsic_SS: Tensor) -> Tensor:
    """1 - CKA, from mean HSIC_1: [S, S], 0 = the same up to rotation and scale.

    1 is expected of states that have nothing to do with each other, so that an estimate may lie
    above it. Source: equation 2 of Nguyen et al., where the mean is taken before the quotient.
    """
    itself_S = torch.diagonal(hsic_SS)
    distance_SS = 1 - hsic_SS / (itself_S[:, None] * itself_S[None, :]).sqrt()
    torch.diagonal(distance_SS).zero_()
    return distance_SS


cka = Metric(unbiased_hsic, misalignment)
