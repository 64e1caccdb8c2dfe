"""Every metric by the name that `metric=` takes."""

from layerprune.similarity.angular import angular
from layerprune.similarity.cosine import cosine
from layerprune.similarity.magnitude import magnitude
from layerprune.similarity.states import Metric

METRICS: dict[str, Metric] = {"angular": angular, "cosine": cosine, "magnitude": magnitude}
