"""The contiguous block whose two ends are the most alike."""

import numpy as np

from layerprune.plan.plan import Choice, Matrix


def block(distances_SS: Matrix, count: int, seed: int) -> Choice:
    """Layers l ... l+count-1 with the least distance between state l and state l+count.

    All L-count+1 positions take part; of equal ones the deepest wins. Source: Gromov et al.,
    arXiv 2403.17887, section 3.2, l*(n) = argmin_l d(x^(l), x^(l+n)).
    """
    distance_l = np.diagonal(distances_SS, offset=count)
    start = len(distance_l) - 1 - int(np.argmin(distance_l[::-1]))
    score = float(distance_l[start])
    reason = f"least distance, {score:.4f}, of {len(distance_l)} blocks of {count}"
    return Choice(tuple(range(start, start + count)), score, reason)
