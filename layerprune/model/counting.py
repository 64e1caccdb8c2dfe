"""How much of a model has run: the cost of an algorithm in units that no machine changes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedModel

from layerprune.model.stack import decoder_stack


@contextmanager
def counting(model: PreTrainedModel) -> Iterator[Callable[[], int]]:
    """A function that says how many layers have run inside the block, once for each sequence."""
    runs = 0

    def before(_module: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        nonlocal runs
        runs += len(args[0] if args else kwargs["hidden_states"])

    layers = list(decoder_stack(model).layers)
    hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    try:
        yield lambda: runs
    finally:
        for hook in hooks:
            hook.remove()
