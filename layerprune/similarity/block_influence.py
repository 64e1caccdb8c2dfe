"""Block Influence (ShortGPT, Men et al., arXiv 2403.03853, equation 1).

BI of layer l is 1 - E[cos(x_l, x_(l+1))] over all tokens of all sequences; here of every two
states, so that a block of any size has one. It is the cosine distance, taken over all tokens
(`metric.tokens=all`) where the other distances take the last.
"""

from layerprune.similarity.cosine import cosine_distances
from layerprune.similarity.metric import Metric

block_influence = Metric(cosine_distances)
