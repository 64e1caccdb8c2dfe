"""Check a removal of layers from a model with its own code, which nobody has verified.

transformers' types are verified once (`verified.py`). A model with its own code is checked whenever
layers are removed, for these layers: its logits must equal its logits with the removed layers still
there, but returning their input. Differences that show only after more than `LENGTH` tokens, such
as a window that depends on a layer's index, are not found.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from layerprune.model.config_surgery import LAYER_INDEX_LISTS, PER_LAYER_LISTS
from layerprune.model.offload import input_device
from layerprune.model.stack import UnsupportedArchitecture, num_layers, text_config

LENGTH = 64
"""Tokens of the check."""

TOLERANCE = 1e-3
"""Relative: the same numbers are computed in the same order, so only rounding may differ."""


def cut_check(
    model: PreTrainedModel, removed: Sequence[nn.Module], remaining: Sequence[nn.Module]
) -> Callable[[], None]:
    """Return a function that raises `UnsupportedArchitecture` unless a removal keeps the logits.

    Call this before the removal, and the function after it. A removal that passed is remembered in
    the model's `_checked_cuts`, by its remaining layers.
    """
    cut, passed = tuple(map(id, remaining)), vars(model).setdefault("_checked_cuts", set())
    if cut in passed:
        return lambda: None
    _refuse_unknown_lists(text_config(model))
    with ExitStack() as hooks:
        for layer in removed:
            hooks.enter_context(_identity(layer))
        expected = _logits(model)

    def check() -> None:
        error = (_logits(model) - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
        if not error <= TOLERANCE:
            raise UnsupportedArchitecture(
                f"{model.config.model_type}: without these layers its logits differ by "
                f"{float(error):.0e} from its logits with the layers made the identity: its own "
                "code depends on the numbers of layers."
            )
        passed.add(cut)

    return check


def _refuse_unknown_lists(config: PreTrainedConfig) -> None:
    count, handled = num_layers(config), (*PER_LAYER_LISTS, *LAYER_INDEX_LISTS)
    for name, value in vars(config).items():
        per_layer = isinstance(value, list | tuple) and len(value) == count
        if per_layer and not name.startswith("_") and name not in handled:
            raise UnsupportedArchitecture(
                f"{config.model_type}: {name} has as many entries as there are layers, and it is "
                "unknown whether it describes them."
            )


@contextmanager
def _identity(layer: nn.Module) -> Iterator[None]:
    """Run a layer inside the block, but return its input state."""
    inputs: list[Tensor] = []

    def enter(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state: Tensor = args[0] if args else kwargs["hidden_states"]
        inputs.append(state.clone())  # some layers add to it in place

    def leave(_module: object, _args: object, output: Any) -> Any:
        state = inputs.pop()
        return state if isinstance(output, Tensor) else (state, *output[1:])

    with (
        layer.register_forward_pre_hook(enter, with_kwargs=True),
        layer.register_forward_hook(leave),
    ):
        yield


def _logits(model: PreTrainedModel) -> Tensor:
    vocabulary = int(text_config(model).vocab_size)
    generator = torch.Generator().manual_seed(0)
    ids_1T = torch.randint(vocabulary, (1, LENGTH), generator=generator).to(input_device(model))
    in_training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        with torch.no_grad():
            return model(input_ids=ids_1T, use_cache=False).logits.float()
    except Exception as error:  # the model's own code may raise any
        reason = str(error).strip().split("\n")[0]
        raise UnsupportedArchitecture(
            f"{model.config.model_type}: its own code fails on {LENGTH} random tokens: "
            f"{type(error).__name__} {reason}"
        ) from error
    finally:
        for part in in_training:
            part.training = True
