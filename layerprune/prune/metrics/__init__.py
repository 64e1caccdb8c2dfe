"""Metrics: how far apart layers' inputs are, or how much each layer matters.

One class per file, registered by `layerprune.config.registry.metric`.
Letters: N tokens (or sequences), T time, S = L + 1 states, H hidden size, L layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from layerprune.config.schema import MetricOptions, Tokens

if TYPE_CHECKING:
    from torch import Tensor as Tensor
    from transformers import PreTrainedModel

    from layerprune.shared_forward.memory_budget import MemoryBudget
else:
    Tensor = Any  # for annotations in the files of metrics, which do not import torch


@dataclass(frozen=True)
class MetricContext:
    """A model, and the calibration text to measure it on."""

    model: PreTrainedModel
    ids_NT: Tensor
    """Token sequences."""
    seed: int
    memory_budget: MemoryBudget
    """Limit for metrics that run much at once."""


@dataclass(kw_only=True, slots=True)
class TokenMetric(MetricOptions, ABC):
    """A distance between the hidden states of a token at every two layers, averaged over text.

    Distances are symmetric and exactly 0 on the diagonal.
    """

    tokens: Tokens = MISSING
    """`last`: use the last token of each sequence, as in Gromov et al. `all`: use the mean over all
    tokens except the first, which is an attention sink in many models. Its huge norm would hide
    what layers do to text."""

    @abstractmethod
    def sum_over_tokens(self, states_NSH: Tensor) -> Tensor:
        """Return a statistic of every two of S states, summed over N tokens: [S, S] in float64.

        The tokens are all of one sequence, or the last ones of a batch. A statistic of all N
        together counts N times. N x S x S numbers fit into memory, N x S x S x H don't.
        """

    def distances(self, mean_SS: Tensor) -> Tensor:
        """Return the distances that belong to the mean of that statistic over all sequences."""
        return mean_SS


@dataclass(kw_only=True, slots=True)
class LayerMetric(MetricOptions, ABC):
    """An importance of each layer; a block's importance is the sum over its layers."""

    @abstractmethod
    def importance(self, context: MetricContext) -> list[float]:
        """Return the importance of each layer; the higher, the more is lost without it."""
