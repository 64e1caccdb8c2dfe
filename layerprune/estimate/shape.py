"""A model's shape: the sizes that decide what a token costs."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from layerprune.config.schema import ModelConfig, ShapeFacts
from layerprune.heal.projections import feed_forward
from layerprune.model.stack import decoder_stack, text_config

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""What configurations call the number of experts in a layer."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder; of its layers, the mean of all."""

    num_layers: int
    layer_weights: float
    """Numbers in a layer's matrices."""
    active_weights: float
    """Of these, the ones that a token meets: fewer where a layer has experts."""
    attention_width: int
    """Query heads times the size of a head."""
    hidden_size: int
    vocab_size: int
    feed_forward: float
    """Sum, over a layer's feed-forward projections, of inputs and outputs: the numbers in an update
    of rank 1."""

    @property
    def parameters(self) -> float:
        """Of the whole model, but for norms and biases; embeddings and head counted apart."""
        return self.num_layers * self.layer_weights + 2 * self.head

    @property
    def head(self) -> int:
        """Numbers in the vocabulary head."""
        return self.hidden_size * self.vocab_size


def shape_of(config: ModelConfig, folder: Path | None = None) -> Shape | None:
    """A model's shape by its preset or its files; None where neither says."""
    if config.shape is not None:
        return shape_of_facts(config.shape)
    return None if folder is None else shape_of_folder(folder)


def shape_of_facts(facts: ShapeFacts) -> Shape:
    """The shape of a decoder whose layers are attention and one feed-forward part."""
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
    """The shape of the model in a folder, by its configuration; None where that is not enough."""
    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            return shape_of_model(AutoModelForCausalLM.from_config(config))
    except Exception:  # each architecture has its own ways to refuse; nothing depends on it
        return None


def shape_of_model(model: PreTrainedModel) -> Shape:
    """The shape of a model, which may be on PyTorch's device `meta`: no weight is read."""
    config: Any = text_config(model)
    layers = decoder_stack(model).layers
    of_all = next((count for name in EXPERTS if (count := getattr(config, name, None))), 1)
    share = (getattr(config, "num_experts_per_tok", None) or of_all) / of_all
    held = active = projected = 0.0
    for layer in layers:
        for weight in layer.parameters():
            if weight.ndim < 2:
                continue
            numbers = prod(weight.shape)
            held += numbers
            # Experts lie in one tensor of three dimensions.
            active += numbers * (share if weight.ndim > 2 else 1)
        weights: list[Any] = [part.weight for _, part in feed_forward(layer)]
        projected += sum(inputs + outputs for inputs, outputs in (each.shape for each in weights))
    heads = int(config.num_attention_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(
        num_layers=len(layers),
        layer_weights=held / len(layers),
        active_weights=active / len(layers),
        attention_width=heads * int(head_dim),
        hidden_size=int(config.hidden_size),
        vocab_size=int(config.vocab_size),
        feed_forward=projected / len(layers),
    )
