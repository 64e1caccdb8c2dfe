"""Block Influence, the cosine distance over all tokens."""

from layerprune.config.registry import metric
from layerprune.prune.metrics.cosine import Cosine


@metric("block_influence", reference="ShortGPT, Men et al., arXiv 2403.03853, equation 1")
class BlockInfluence(Cosine):
    """1 - E[cos(x_l, x_(l+n))] over all tokens (`metric.tokens=all`) of all sequences.

    The paper defines it for n = 1. Here every two states have one, so it fits any block.
    """
