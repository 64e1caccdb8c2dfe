"""Training weights themselves: all of them, or the head and the last layers."""

from transformers import PreTrainedModel

from layerprune.config.schema import HealConfig
from layerprune.model.stack import decoder_stack


def full(model: PreTrainedModel, config: HealConfig) -> PreTrainedModel:
    """The model with every weight trainable."""
    return model.requires_grad_(True)


def tail(model: PreTrainedModel, config: HealConfig) -> PreTrainedModel:
    """The model with its head, final norm and last `heal.last_layers` layers trainable.

    A head that is tied to the input embeddings is trained as one with them. Source: Lu et al.,
    arXiv 2411.15558, which trains the head and the last three layers.
    """
    model.requires_grad_(False)
    model.get_output_embeddings().requires_grad_(True)
    stack = decoder_stack(model)
    assert config.last_layers is not None
    for layer in stack.layers[-config.last_layers :]:
        layer.requires_grad_(True)
    for name, part in stack.decoder.named_children():
        if "norm" in name or name == "ln_f":
            part.requires_grad_(True)
    return model
