"""Every metric of hidden states by the name that `metric=` takes."""

from layerprune.similarity.angular import angular
from layerprune.similarity.block_influence import block_influence
from layerprune.similarity.cka import cka
from layerprune.similarity.cosine import cosine
from layerprune.similarity.euclidean import euclidean
from layerprune.similarity.magnitude import magnitude
from layerprune.similarity.metric import Metric

METRICS: dict[str, Metric] = {
    "angular": angular, "cosine": cosine, "block_influence": block_influence,
    "magnitude": magnitude, "euclidean": euclidean, "cka": cka,
}  # fmt: skip
