"""Find a model's decoder layers and their projections, and apply its head as the family does.

Letters: B batch, T time, H hidden size, V vocabulary, N any number of positions.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from layerprune.errors import UserError

LAYER_COUNT_FIELDS = (
    "decoder_layers", "num_decoder_layers", "num_layers", "num_blocks", "n_layer", "n_layers",
    "num_hidden_layers",
)  # fmt: skip
"""Fields that count a decoder's layers; if there are several, the first one counts."""


class UnsupportedArchitecture(UserError, ValueError):  # noqa: N818 - a public name
    """Raised if layers of a model cannot be identified or removed with certainty."""


@dataclass(frozen=True)
class DecoderStack:
    """The parts of a causal language model that layers are removed from."""

    decoder: nn.Module
    """Runs embeddings, layers and final norm, not the head."""
    layers: nn.ModuleList


def decoder_stack(model: PreTrainedModel) -> DecoderStack:
    """Return the decoder of a causal LM and its list of layers.

    Raises `UnsupportedArchitecture` unless exactly one list has the configured number of layers.
    """
    count = num_layers(text_config(model))
    # In some families `get_decoder` returns the head, which has no layers.
    for decoder in (model.get_decoder(), model.base_model):
        lists = _layer_lists([decoder], count)
        if len(lists) == 1 and decoder is not model:
            return DecoderStack(decoder, lists[0])
        if len(lists) == 1:  # in others it returns the model itself, head included
            parents = (part for part in model.modules() if lists[0] in list(part.children()))
            return DecoderStack(next(parents), lists[0])
    raise UnsupportedArchitecture(
        f"{model.config.model_type}: {len(lists)} lists of {count} layers in its decoder, "
        "where one was expected."
    )


def text_config(model: PreTrainedModel) -> PreTrainedConfig:
    """Return the configuration of a model's decoder: its own, or a part of it."""
    return model.config.get_text_config(decoder=True)


def num_layers(config: PreTrainedConfig) -> int:
    """Return the number of layers in a decoder's list, by its configuration."""
    for name in LAYER_COUNT_FIELDS:
        if name in vars(config):
            return int(vars(config)[name])
    return int(config.num_hidden_layers)


def _layer_lists(parts: list[nn.Module], count: int) -> list[nn.ModuleList]:
    """Return the outermost lists of `count` modules: others are inside layers, or in encoders."""
    children = [child for part in parts for child in part.children()]
    lists = [
        child for child in children if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    return lists if lists or not children else _layer_lists(children, count)


@contextmanager
def count_layer_runs(model: PreTrainedModel) -> Iterator[Callable[[], int]]:
    """Yield a function that returns how many layers have run, counted once per sequence.

    The cost of an algorithm in units that do not depend on the machine.
    """
    runs = 0

    def before(_module: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        nonlocal runs
        runs += len(args[0] if args else kwargs["hidden_states"])

    with ExitStack() as hooks:
        for layer in decoder_stack(model).layers:
            hooks.enter_context(layer.register_forward_pre_hook(before, with_kwargs=True))
        yield lambda: runs


def feed_forward_projections(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield names and modules of a layer's linear projections outside its attention, in order."""
    attention = [
        name for name, part in layer.named_modules() if "attention" in type(part).__name__.lower()
    ]
    for name, part in layer.named_modules():
        inside = any(name == path or name.startswith(f"{path}.") for path in attention if path)
        if isinstance(part, nn.Linear | Conv1D) and not inside:
            yield name, part


def feed_forward_names(model: PreTrainedModel) -> list[str]:
    """Return the full names of all feed-forward projections; every layer must have some."""
    paths = {part: path for path, part in model.named_modules()}
    names = []
    for layer in decoder_stack(model).layers:
        in_layer = [f"{paths[layer]}.{name}" for name, _ in feed_forward_projections(layer)]
        if not in_layer:
            raise UnsupportedArchitecture(
                f"{model.config.model_type}: no feed-forward projections were found in its layers. "
                "Name the modules to adapt with heal.targets=[...]."
            )
        names += in_layer
    return names


class Head:
    """The vocabulary head of a model, applied to chosen positions only.

    Soft caps and logit scales are part of each family's own `forward`. It is called while the
    decoder returns the given states, so that the family's arithmetic runs.
    """

    def __init__(self, model: PreTrainedModel, logits_at_once: int = 2**24) -> None:
        """`positions_at_once` is the number of positions whose logits fit in `logits_at_once`."""
        self._model = model
        vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self.positions_at_once = max(1, logits_at_once // vocabulary)
        self._decoder: Any = decoder_stack(model).decoder

    def __call__(self, hidden_NH: Tensor) -> Tensor:
        """Return the logits [N, V] of states [N, H] that have passed the final norm."""
        ids_1N = torch.zeros((1, len(hidden_NH)), dtype=torch.long, device=hidden_NH.device)
        # Only `forward` is replaced: some families' heads read a number from the decoder.
        own = vars(self._decoder).get("forward")
        self._decoder.forward = lambda *_args, **_kwargs: _DecoderOutput(hidden_NH[None])
        try:
            return self._model(input_ids=ids_1N, use_cache=False).logits[0]
        finally:
            del self._decoder.forward
            if own is not None:
                self._decoder.forward = own


class _DecoderOutput:
    """A decoder's output in which everything but the states is None."""

    def __init__(self, last_hidden_state: Tensor) -> None:
        self.last_hidden_state = last_hidden_state

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: Any) -> Any:
        return (self.last_hidden_state,)[index]
