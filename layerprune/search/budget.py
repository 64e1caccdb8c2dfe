"""The fewest layers that have to be removed to meet a budget of memory or speed.

Computed from the shape of the model: the size of its weights and the operations of a token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from layerprune.config.schema import Config, Dtype, ExportConfig, FitConfig, Quantization
from layerprune.errors import UserError
from layerprune.estimate.cost import DTYPE_BYTES, bytes_per_weight
from layerprune.estimate.shape import Shape, shape_of, shape_of_facts
from layerprune.model.stack import decoder_stack
from layerprune.model.weight_files import weights_dtype
from layerprune.search.result import mebibytes


@dataclass(frozen=True)
class ModelSize:
    """Parameter counts of a model, tied weights once, and the form that they are exported in."""

    num_layers: int
    layer: float
    """Parameters of a layer: the mean of all layers."""
    outside: float
    """Parameters of embeddings, head and final norm."""
    dtype: Dtype
    quantization: Quantization | None

    def bytes(self, parameters: float) -> float:
        """Return the size of a model with so many parameters; those outside layers keep `dtype`."""
        of_layers = bytes_per_weight(self.dtype, self.quantization)
        return (parameters - self.outside) * of_layers + self.outside * DTYPE_BYTES[self.dtype]

    @property
    def bytes_by_dropped(self) -> list[float]:
        """Size for each number of removed layers, from 0 to all but one."""
        remaining = range(self.num_layers, 0, -1)
        return [self.bytes(self.outside + count * self.layer) for count in remaining]

    @property
    def form(self) -> str:
        """Name of the quantization, or else of the precision."""
        return self.quantization.value if self.quantization else self.dtype.value


def size_of_folder(folder: Path, export: ExportConfig) -> ModelSize | None:
    """Return the size by a model's configuration, without its weights; None if that cannot tell."""
    dtype = export.dtype or weights_dtype(folder)
    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        layers = decoder_stack(model).layers
    except Exception:  # each architecture raises its own errors
        return None
    if dtype is None:
        return None
    inside = sum(weight.numel() for layer in layers for weight in layer.parameters())
    outside = model.num_parameters() - inside
    return ModelSize(len(layers), inside / len(layers), outside, dtype, export.quantization)


def size_of_parameters(
    parameters_N: Sequence[int], dtype: Dtype, export: ExportConfig
) -> ModelSize:
    """Return the size by the parameters that remain for each number of removed layers, from 0."""
    count = len(parameters_N)
    layer = (parameters_N[0] - parameters_N[-1]) / max(1, count - 1)
    outside = parameters_N[-1] - layer
    return ModelSize(count, layer, outside, export.dtype or dtype, export.quantization)


def smallest_size(config: Config) -> ModelSize | None:
    """Return a lower bound by the shape in the model's preset; None if it has none.

    Embeddings may be tied to the head, and weights may be in 16 bits on disk.
    """
    if config.model.shape is None:
        return None
    shape, export = shape_of_facts(config.model.shape), config.export
    dtype = export.dtype or Dtype.bfloat16
    return ModelSize(shape.num_layers, shape.layer_weights, shape.head, dtype, export.quantization)


def speedups(shape: Shape, seen: int) -> list[float]:
    """Return the ratio of a token's operations, dense to pruned, by number of removed layers."""
    dense = shape.token_flops(shape.num_layers, seen)
    return [dense / shape.token_flops(count, seen) for count in range(shape.num_layers, 0, -1)]


def refuse_impossible(config: Config, folder: Path | None = None) -> None:
    """Raise `UserError`, naming the closest achievable limit, if a single layer exceeds one.

    The size comes from the model's files in `folder`, or else from its preset.
    """
    size = smallest_size(config) if folder is None else size_of_folder(folder, config.export)
    shape, speed = shape_of(config.model, folder), config.eval.speed
    bytes_N = [] if size is None else size.bytes_by_dropped
    speedup_N = [] if shape is None or speed.rounds else speedups(shape, speed.prompt_tokens)
    fewest_layers(config.fit, size, bytes_N, speedup_N, "counted operations")


def fewest_layers(
    fit: FitConfig,
    size: ModelSize | None,
    bytes_N: Sequence[float],
    speedup_N: Sequence[float],
    basis: str,
) -> tuple[int, str]:
    """Return the fewest layers to remove for memory and speed, and the option that requires them.

    `bytes_N` and `speedup_N` are indexed by the number of removed layers; an empty one is not
    checked. Raises `UserError`, naming the closest achievable limit, if no cut is enough.
    """
    required = [(0, "")]
    if fit.memory_bytes is not None and size is not None:
        option, least = f"fit.memory={fit.memory}", bytes_N[-1]
        if least > fit.memory_bytes:
            closest = f"{math.ceil(least / 2**20)}MiB" if least >= 2**20 else math.ceil(least)
            fewer = "" if size.quantization else ", or add export.quantization=nf4"
            raise UserError(
                f"{option}: embeddings, head and a single layer take at least {mebibytes(least)} "
                f"in {size.form}. Use fit.memory={closest} or more{fewer}."
            )
        fits = (n for n, size in enumerate(bytes_N) if size <= fit.memory_bytes)
        required.append((next(fits), option))
    if fit.speedup is not None and speedup_N:
        option, most = f"fit.speedup={fit.speedup}", max(speedup_N)
        if most < fit.speedup:
            raise UserError(
                f"{option}: head and a single layer allow {most:.2f} times at most, by {basis}. "
                f"Use fit.speedup={int(most * 100) / 100} or less."
            )
        fast = (n for n, speedup in enumerate(speedup_N) if speedup >= fit.speedup)
        required.append((next(fast), option))
    return max(required)
