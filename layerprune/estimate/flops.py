"""Floating-point operations: two for each weight that a token meets, and attention's.

Attention is counted for all pairs of tokens, as PyTorch's counter does; kernels that skip what the
causal mask hides do half of it.
"""

from layerprune.estimate.shape import Shape


def of_layer(shape: Shape, seen: float) -> float:
    """Of one token in one layer, held against `seen` tokens: as many as its sequence has."""
    return 2 * shape.active_weights + 4 * shape.attention_width * seen


def of_head(shape: Shape) -> float:
    """Of the logits at one position."""
    return 2.0 * shape.head


def of_token(shape: Shape, num_layers: int, seen: float, logits: float = 1.0) -> float:
    """Of one token through so many layers; `logits` is the share of tokens with logits."""
    return num_layers * of_layer(shape, seen) + logits * of_head(shape)
