"""Where a layer's feed-forward projections are, found by structure."""

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from layerprune.model.stack import UnsupportedArchitecture, decoder_stack


def feed_forward(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of a layer's linear projections outside of its attention, in order."""
    attention = [
        name for name, part in layer.named_modules() if "attention" in type(part).__name__.lower()
    ]
    for name, part in layer.named_modules():
        inside = any(name == path or name.startswith(f"{path}.") for path in attention if path)
        if isinstance(part, nn.Linear | Conv1D) and not inside:
            yield name, part


def feed_forward_names(model: PreTrainedModel) -> list[str]:
    """Full names of all feed-forward projections of a model's decoder layers.

    Raises `UnsupportedArchitecture` where a layer has none, as with fused experts.
    """
    paths = {part: path for path, part in model.named_modules()}
    names = []
    for layer in decoder_stack(model).layers:
        found = [f"{paths[layer]}.{name}" for name, _ in feed_forward(layer)]
        if not found:
            raise UnsupportedArchitecture(
                f"{model.config.model_type}: no feed-forward projections were found in its layers. "
                "Name the modules to adapt with heal.targets=[...]."
            )
        names += found
    return names
