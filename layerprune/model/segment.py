"""Running some of a decoder's layers, from a state that is already there.

Letters: B batch, T time, H hidden size.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedModel

from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import dropped


class Segment(NamedTuple):
    """What came out of some layers."""

    state: Tensor
    """[B, T, H]: what the next layer would read."""
    normed: Tensor
    """[B, T, H]: the same after the final norm, as the head reads it."""


def run_segment(model: PreTrainedModel, state_BTH: Tensor, slots: Sequence[int]) -> Segment:
    """Run the layers at `slots`, in order and no others, on states [B, T, H].

    The decoder's own `forward` runs, so that masks and positions are the family's; what it does to
    embeddings before its first layer is left out. Gradients flow.
    """
    stack = decoder_stack(model)
    others = [slot for slot in range(len(stack.layers)) if slot not in slots]
    after: list[Tensor] = []

    def enter(_module: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]):  # type: ignore[no-untyped-def]
        if args:
            return (state_BTH, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": state_BTH}

    def leave(_module: object, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        after.append(output if isinstance(output, Tensor) else output[0])

    with dropped(model, others):
        hooks = [
            stack.layers[0].register_forward_pre_hook(enter, with_kwargs=True),
            stack.layers[-1].register_forward_hook(leave),
        ]
        try:
            run = stack.decoder(inputs_embeds=state_BTH, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
    return Segment(after[0], run.last_hidden_state)
