"""Running some of a decoder's layers, from a state that is already there.

Letters: B batch, T time, H hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import dropped


class Output(NamedTuple):
    """What came out of some layers."""

    state: Tensor
    """[B, T, H]: what the next layer would read."""
    normed: Tensor
    """[B, T, H]: the same after the final norm, as the head reads it."""


Run = Callable[..., Output]
"""Takes `ids` [B, T] or a `state` [B, T, H], and the `cache` of what came before, if any."""


@contextmanager
def segment(model: PreTrainedModel, slots: Sequence[int]) -> Iterator[Run]:
    """A function that runs the layers at `slots`, one at least, in order and no others.

    The decoder's own `forward` runs, so that masks and positions are the family's; where it is
    given a state, what it does to embeddings before its first layer is left out. Gradients flow.
    A cache holds keys and values of these layers alone, and is added to. Inside the block the model
    has no other layers.
    """
    stack = decoder_stack(model)
    embeddings: Any = model.get_input_embeddings()
    width = int(embeddings.weight.shape[-1])  # not that of states in some models
    others = [slot for slot in range(len(stack.layers)) if slot not in slots]
    given: list[Tensor] = []
    after: list[Tensor] = []

    # In place of what the decoder makes of embeddings, which are of no account then.
    def enter(_module: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]):  # type: ignore[no-untyped-def]
        if not given:
            return None
        if args:
            return (given[0], *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": given[0]}

    def leave(_module: object, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        after.append(output if isinstance(output, Tensor) else output[0])

    def run(
        ids: Tensor | None = None, state: Tensor | None = None, cache: DynamicCache | None = None
    ) -> Output:
        given[:] = [] if state is None else [state]
        out = stack.decoder(
            input_ids=ids,
            inputs_embeds=None if state is None else state.new_zeros(*state.shape[:2], width),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        given.clear()
        return Output(after.pop(), out.last_hidden_state)

    with dropped(model, others):
        hooks = [
            stack.layers[0].register_forward_pre_hook(enter, with_kwargs=True),
            stack.layers[-1].register_forward_hook(leave),
        ]
        try:
            yield run
        finally:
            for hook in hooks:
                hook.remove()
