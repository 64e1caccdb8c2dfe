"""The sizes of a model that determine the floating-point operations per token.

A token takes two operations per weight. Attention is counted for all pairs of tokens, as PyTorch's
counter does; kernels that skip masked pairs do half of it.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from layerprune.config.schema import ModelConfig, ShapeFacts
from layerprune.model.stack import decoder_stack, feed_forward_projections, text_config

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""Names of configurations for the number of experts in a layer."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder; a layer's sizes are means over all layers."""

    num_layers: int
    layer_weights: float
    """Weights in a layer's matrices."""
    active_weights: float
    """Weights that one token uses: fewer if a layer has experts."""
    attention_width: int
    """Query heads times the size of a head."""
    hidden_size: int
    vocab_size: int
    feed_forward: float
    """Sum of the inputs and outputs of a layer's feed-forward projections: the weights of LoRA
    adapters of rank 1."""

    @property
    def head(self) -> int:
        """Weights of the vocabulary head."""
        return self.hidden_size * self.vocab_size

    def layer_flops(self, length: float) -> float:
        """Return the operations of one token in one layer, in a sequence of `length` tokens."""
        return 2 * self.active_weights + 4 * self.attention_width * length

    @property
    def head_flops(self) -> float:
        """Operations of the logits at one position."""
        return 2.0 * self.head

    def token_flops(self, num_layers: int, length: float, logits: float = 1.0) -> float:
        """Return the operations of one token; `logits` is the fraction of tokens with logits."""
        return num_layers * self.layer_flops(length) + logits * self.head_flops


def shape_of(config: ModelConfig, folder: Path | None = None) -> Shape | None:
    """Return a model's shape from its preset or its files; None if both are missing."""
    if config.shape is not None:
        return shape_of_facts(config.shape)
    return None if folder is None else shape_of_folder(folder)


def shape_of_facts(facts: ShapeFacts) -> Shape:
    """Return the shape of a decoder whose layers are attention and one feed-forward part."""
    hidden, inner = facts.hidden_size, facts.intermediate_size
    shared = facts.num_key_value_heads / facts.num_attention_heads
    projections = 3 if facts.gated else 2
    weights = hidden * hidden * (2 + 2 * shared) + projections * hidden * inner
    return Shape(
        num_layers=facts.num_hidden_layers,
        layer_weights=weights,
        active_weights=weights,
        attention_width=hidden,
        hidden_size=hidden,
        vocab_size=facts.vocab_size,
        feed_forward=projections * (hidden + inner),
    )


def shape_of_folder(folder: Path) -> Shape | None:
    """Return the shape of the model in a folder, from its configuration; None if that fails."""
    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            return shape_of_model(AutoModelForCausalLM.from_config(config))
    except Exception:  # architectures raise any error
        return None


def shape_of_model(model: PreTrainedModel) -> Shape:
    """Return a model's shape; it may be on PyTorch's device `meta`, for no weight is read."""
    config: Any = text_config(model)
    layers = decoder_stack(model).layers
    experts = next((count for name in EXPERTS if (count := getattr(config, name, None))), 1)
    used_share = (getattr(config, "num_experts_per_tok", None) or experts) / experts
    total = active = projected = 0.0
    for layer in layers:
        for weight in layer.parameters():
            if weight.ndim < 2:
                continue
            size = prod(weight.shape)
            total += size
            # Experts share one tensor of three dimensions.
            active += size * (used_share if weight.ndim > 2 else 1)
        for _, projection in feed_forward_projections(layer):
            matrix: Any = projection.weight
            projected += sum(matrix.shape)
    heads = int(config.num_attention_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(
        num_layers=len(layers),
        layer_weights=total / len(layers),
        active_weights=active / len(layers),
        attention_width=heads * int(head_dim),
        hidden_size=int(config.hidden_size),
        vocab_size=int(config.vocab_size),
        feed_forward=projected / len(layers),
    )
