"""Where a model's decoder layers are, and its head the way the family applies it.

Letters: B batch, T time, H hidden size, V vocabulary, N any number of positions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from layerprune.errors import UserError

COUNTS = (
    "decoder_layers",
    "num_decoder_layers",
    "num_layers",
    "num_blocks",
    "n_layer",
    "n_layers",
    "num_hidden_layers",
)
"""Fields that count a decoder's layers; of several, the first counts those of its list."""


class UnsupportedArchitecture(UserError, ValueError):  # noqa: N818 - the name is a promise
    """Raised where layers of a model cannot be told apart or taken out with certainty."""


@dataclass(frozen=True)
class DecoderStack:
    """The parts of a causal language model that matter here."""

    decoder: nn.Module
    """Runs embeddings, layers and final norm; never the head."""
    layers: nn.ModuleList


def decoder_stack(model: PreTrainedModel) -> DecoderStack:
    """The decoder of a causal LM and its list of layers.

    Raises `UnsupportedArchitecture` unless exactly one list has the configured number of layers.
    """
    count = num_layers(text_config(model))
    # What some families call a decoder has no layers: it is their head.
    for decoder in (model.get_decoder(), model.base_model):
        lists = _lists([decoder], count)
        if len(lists) == 1 and decoder is not model:
            return DecoderStack(decoder, lists[0])
        if len(lists) == 1:  # and some call themselves their decoder, head and all
            holds = (part for part in model.modules() if lists[0] in list(part.children()))
            return DecoderStack(next(holds), lists[0])
    raise UnsupportedArchitecture(
        f"{model.config.model_type}: {len(lists)} lists of {count} layers in its decoder, "
        "where one was expected."
    )


def text_config(model: PreTrainedModel) -> PreTrainedConfig:
    """The configuration of a model's decoder: its own, or a part of it."""
    return model.config.get_text_config(decoder=True)


def num_layers(config: PreTrainedConfig) -> int:
    """How many layers a decoder's list has, by its configuration."""
    for name in COUNTS:
        if name in vars(config):
            return int(vars(config)[name])
    return int(config.num_hidden_layers)


def _lists(parts: list[nn.Module], count: int) -> list[nn.ModuleList]:
    """The outermost lists of so many modules: others are inside layers, or in encoders."""
    children = [child for part in parts for child in part.children()]
    lists = [
        child for child in children if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    return lists if lists or not children else _lists(children, count)


class Head:
    """The vocabulary head of a model, applied to chosen positions only.

    Soft caps and logit scales stand in each family's own `forward`. It is called while the
    decoder returns the given states, so the family's arithmetic is what runs.
    """

    def __init__(self, model: PreTrainedModel, logits_at_once: int = 2**24) -> None:
        """For callers that take `positions_at_once`, in as many logits as that."""
        self._model = model
        vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self.positions_at_once = max(1, logits_at_once // vocabulary)
        self._decoder: Any = decoder_stack(model).decoder

    def __call__(self, hidden_NH: Tensor) -> Tensor:
        """Logits [N, V] of states [N, H] that have passed the final norm."""
        with self._decoder_returns(hidden_NH[None]):
            ids_1N = torch.zeros((1, len(hidden_NH)), dtype=torch.long, device=hidden_NH.device)
            return self._model(input_ids=ids_1N, use_cache=False).logits[0]

    @contextmanager
    def _decoder_returns(self, hidden_1NH: Tensor) -> Iterator[None]:
        # The module itself stays: some families' heads read a number from it.
        own = vars(self._decoder).get("forward")
        self._decoder.forward = lambda *_args, **_kwargs: _Output(hidden_1NH)
        try:
            yield
        finally:
            del self._decoder.forward
            if own is not None:
                self._decoder.forward = own


class _Output:
    """A decoder's output in which whatever a family looks for beyond the states is None."""

    def __init__(self, last_hidden_state: Tensor) -> None:
        self.last_hidden_state = last_hidden_state

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: Any) -> Any:
        return (self.last_hidden_state,)[index]
