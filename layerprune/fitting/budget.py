"""How many layers have to go for memory and speed, and what no cut can reach.

By arithmetic: the weights of a model with n layers less, and the operations that a token takes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from layerprune.config.schema import Config, Dtype, ExportConfig, FitConfig, Quantization
from layerprune.errors import UserError
from layerprune.estimate.cost import BYTES, HELD
from layerprune.estimate.flops import of_token
from layerprune.estimate.shape import Shape, shape_of_facts
from layerprune.model.precision import precision
from layerprune.model.stack import decoder_stack


@dataclass(frozen=True)
class Size:
    """Numbers in a model's weights, tied ones once."""

    num_layers: int
    layer: float
    """In a layer: the mean of all."""
    outside: float
    """In embeddings, head and the last norm."""
    dtype: Dtype
    quantization: Quantization | None

    def bytes(self, parameters: float) -> float:
        """What so many numbers take, those outside layers among them, which stay in `dtype`."""
        each = HELD[self.quantization] if self.quantization else BYTES[self.dtype]
        return (parameters - self.outside) * each + self.outside * BYTES[self.dtype]

    @property
    def bytes_by_dropped(self) -> list[float]:
        """The same for each number of dropped layers, of which one is like another."""
        left = range(self.num_layers, 0, -1)
        return [self.bytes(self.outside + count * self.layer) for count in left]

    @property
    def form(self) -> str:
        """In which form they are, for people."""
        return self.quantization.value if self.quantization else self.dtype.value


def size_of_folder(folder: Path, export: ExportConfig) -> Size | None:
    """By a model's configuration, no weight is read; None where that is not enough."""
    dtype = export.dtype or precision(folder)
    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        layers = decoder_stack(model).layers
    except Exception:  # each architecture has its own ways to refuse
        return None
    if dtype is None:
        return None
    inside = sum(weight.numel() for layer in layers for weight in layer.parameters())
    outside = model.num_parameters() - inside
    return Size(len(layers), inside / len(layers), outside, dtype, export.quantization)


def size_of_parameters(parameters_N: Sequence[int], dtype: Dtype, export: ExportConfig) -> Size:
    """By how many numbers a model has without 0, 1, ... layers, up to all but one."""
    count = len(parameters_N)
    layer = (parameters_N[0] - parameters_N[-1]) / max(1, count - 1)
    outside = parameters_N[-1] - layer
    return Size(count, layer, outside, export.dtype or dtype, export.quantization)


def smallest_size(config: Config) -> Size | None:
    """What a model takes at least, by the sizes in its preset; None where it has none.

    Embeddings may be the head's, and weights may be in 16 bits on disk.
    """
    if config.model.shape is None:
        return None
    shape = shape_of_facts(config.model.shape)
    dtype = config.export.dtype or Dtype.bfloat16
    weights = shape.layer_weights
    return Size(shape.num_layers, weights, shape.head, dtype, config.export.quantization)


def ratios(shape: Shape, seen: int) -> list[float]:
    """For each number of dropped layers, how many times fewer operations a token takes."""
    whole = of_token(shape, shape.num_layers, seen)
    return [whole / of_token(shape, left, seen) for left in range(shape.num_layers, 0, -1)]


def refuse_impossible(config: Config, size: Size | None, shape: Shape | None) -> None:
    """Raise `UserError`, with the nearest thing possible, for what not even one layer reaches."""
    fit = config.fit
    if fit.memory_bytes is not None and size is not None:
        least_for_memory(fit, size, size.bytes_by_dropped)
    if fit.speedup is not None and shape is not None and not config.eval.speed.rounds:
        least_for_speed(fit, ratios(shape, config.eval.speed.prompt_tokens), "operations")


def least_for_memory(fit: FitConfig, size: Size, bytes_N: Sequence[float]) -> int:
    """The least number of layers that have to go. Raises `UserError` where it is all of them."""
    limit = fit.memory_bytes
    assert limit is not None
    found = _first(len(bytes_N), lambda n: bytes_N[n] <= limit)
    if found is None:
        least = bytes_N[-1]
        fewer = "" if size.quantization else ", or export.quantization=nf4 with fewer bits"
        raise UserError(
            f"fit.memory={fit.memory}: embeddings, head and a single layer take "
            f"{mebibytes(least)} or more in {size.form}. The nearest that can be asked is "
            f"fit.memory={_at_least(least)}{fewer}."
        )
    return found


def least_for_speed(fit: FitConfig, ratio_N: Sequence[float], of: str) -> int:
    """The least number of layers that have to go. Raises `UserError` where none is enough."""
    limit = fit.speedup
    assert limit is not None
    found = _first(len(ratio_N), lambda n: ratio_N[n] >= limit)
    if found is None:
        most = max(ratio_N)
        raise UserError(
            f"fit.speedup={fit.speedup}: with a single layer left, what the head and that layer "
            f"take allows {most:.2f} times, by {of}. The nearest that can be asked is "
            f"fit.speedup={int(most * 100) / 100}."
        )
    return found


def mebibytes(size: float) -> str:
    """A size for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _at_least(size: float) -> str:
    """A size that may be asked for, not below another."""
    return f"{math.ceil(size / 2**20)}MiB" if size >= 2**20 else f"{math.ceil(size)}"


def _first(count: int, meets: Callable[[int], bool]) -> int | None:
    return next((n for n in range(count) if meets(n)), None)
