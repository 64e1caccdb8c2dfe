"""The simple heuristic: the deepest layers, but never the last."""

from layerprune.plan.plan import Choice, Matrix


def deepest(distances_SS: Matrix, count: int, seed: int) -> Choice:
    """Layers L-count-1 ... L-2 of 0 ... L-1. Source: Gromov et al., arXiv 2403.17887, section 3.2.

    The paper's own text counts from 1; its last layer, which stays, is L-1 here.
    """
    last = len(distances_SS) - 2
    start = last - count
    score = float(distances_SS[start, last])
    return Choice(tuple(range(start, last)), score, f"the {count} layers before the last")
