"""A model of which nobody has tried whether its layers can be dropped, held against itself.

Types of transformers are tried once and for all (`verified`). A model that brings its own code is
tried when it is cut, and for that very cut: its logits must be those that it has with the dropped
layers still there, but handing on what they are given. What shows only after more than `LENGTH`
tokens, such as a window that depends on a layer's index, is not found so.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from layerprune.model.settings import INDICES, LISTS
from layerprune.model.spread import input_device
from layerprune.model.stack import UnsupportedArchitecture, num_layers, text_config

LENGTH = 64

CLOSE = 1e-3
"""The same numbers are computed in the same order: only a device's own rounding may differ."""

_tried: WeakKeyDictionary[PreTrainedModel, set[tuple[int, ...]]] = WeakKeyDictionary()
"""By model, which layers were left by the cuts that have been tried."""


class Trial:
    """One cut of one model: made before it, and held against it after it."""

    def __init__(
        self, model: PreTrainedModel, gone: Sequence[nn.Module], left: Sequence[nn.Module]
    ) -> None:
        """Raise `UnsupportedArchitecture` where it is clear before the cut that it cannot be."""
        self._model, self._left = model, tuple(map(id, left))
        self._expected: Tensor | None = None
        if self._left not in _tried.setdefault(model, set()):
            _refuse_unknown_lists(text_config(model))
            with ExitStack() as hooks:
                for layer in gone:
                    hooks.enter_context(_identity(layer))
                self._expected = _logits(model)

    def check(self) -> None:
        """Raise `UnsupportedArchitecture` unless the logits are what they were expected to be."""
        if self._expected is None:
            return
        actual, expected = _logits(self._model), self._expected
        error = (actual - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
        if not error <= CLOSE:
            raise UnsupportedArchitecture(
                f"{self._model.config.model_type}: without these layers its logits are off by "
                f"{float(error):.0e} from what they are if the layers hand on what they are given: "
                "its own code goes by the numbers of layers."
            )
        _tried[self._model].add(self._left)


def _refuse_unknown_lists(config: PreTrainedConfig) -> None:
    count = num_layers(config)
    for name, value in vars(config).items():
        of_layers = isinstance(value, list | tuple) and len(value) == count
        if of_layers and not name.startswith("_") and name not in (*LISTS, *INDICES):
            raise UnsupportedArchitecture(
                f"{config.model_type}: {name} has as many entries as there are layers, and whether "
                "it is about them is not known here."
            )


@contextmanager
def _identity(layer: nn.Module) -> Iterator[None]:
    """Inside the block a layer runs, but hands on the state that it is given."""
    given: list[Tensor] = []

    def enter(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state: Tensor = args[0] if args else kwargs["hidden_states"]
        given.append(state.clone())  # some layers add to it in place

    def leave(_module: object, _args: object, output: Any) -> Any:
        state = given.pop()
        return state if isinstance(output, Tensor) else (state, *output[1:])

    hooks = [
        layer.register_forward_pre_hook(enter, with_kwargs=True),
        layer.register_forward_hook(leave),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _logits(model: PreTrainedModel) -> Tensor:
    vocabulary = int(text_config(model).vocab_size)
    generator = torch.Generator().manual_seed(0)
    ids_1T = torch.randint(vocabulary, (1, LENGTH), generator=generator).to(input_device(model))
    in_training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        with torch.no_grad():
            logits: Tensor = model(input_ids=ids_1T, use_cache=False).logits
            return logits.float()
    except Exception as error:  # its code is its authors' own
        reason = str(error).strip().split("\n")[0]
        raise UnsupportedArchitecture(
            f"{model.config.model_type}: its own code does not run on {LENGTH} random tokens: "
            f"{type(error).__name__} {reason}"
        ) from error
    finally:
        for part in in_training:
            part.training = True
