"""Running some of a decoder's layers, from a state that is already there.

Letters: B batch, T time, H hidden size, N positions that are needed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from layerprune.model.own_code import runs_own_code
from layerprune.model.spread import layers_wait
from layerprune.model.stack import UnsupportedArchitecture, decoder_stack
from layerprune.model.surgery import dropped
from layerprune.model.verified import EVERYWHERE, WHOLE

NEEDED_ALONE = ("mlp", "self_attn.q_proj", "self_attn.o_proj", "attention.dense", "attn.c_proj")
"""Parts of a layer that read one position at a time and put nothing into keys and values."""

Where = tuple[Tensor, Tensor]
"""Rows [N] and columns [N] of positions."""


class Output(NamedTuple):
    """What came out of some layers."""

    state: Tensor
    """[B, T, H]: what the next layer would read."""
    normed: Tensor
    """[B, T, H]: the same after the final norm, as the head reads it."""


Run = Callable[..., Output]
"""Takes `ids` [B, T] or a `state` [B, T, H], and what else it takes from there:

- `cache`: of what came before, if anything did; it is added to.
- `decoder`: keyword arguments of the decoder, such as positions and a mask.
- `where`: positions whose output is needed; what comes out at others is of no use.
"""


def runs_in_parts(model: PreTrainedModel) -> bool:
    """Whether layers are known to need nothing of those before them but the state they put out."""
    return model.config.model_type not in WHOLE and not runs_own_code(model)


def by_layers(model: PreTrainedModel) -> bool:
    """Whether a pass goes layer by layer: each is read when it runs, and can run by itself."""
    return runs_in_parts(model) and layers_wait(model)


def _everywhere(model: PreTrainedModel) -> bool:
    """Whether parts of layers may read more than one position."""
    return model.config.model_type in EVERYWHERE or runs_own_code(model)


@contextmanager
def segment(model: PreTrainedModel, slots: Sequence[int]) -> Iterator[Run]:
    """A function that runs the layers at `slots`, one at least, in order and no others.

    The decoder's own `forward` runs, so that masks and positions are the family's; where it is
    given a state, what it does to embeddings before its first layer is left out. Gradients flow.
    A cache holds keys and values of these layers alone. Inside the block the model has no other
    layers.
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
        ids: Tensor | None = None,
        state: Tensor | None = None,
        cache: DynamicCache | None = None,
        decoder: dict[str, Any] | None = None,
        where: Where | None = None,
    ) -> Output:
        if state is not None and not runs_in_parts(model):
            raise UnsupportedArchitecture(
                f"{model.config.model_type}: its layers may read more than the state before them, "
                "and cannot go on from there."
            )
        given[:] = [] if state is None else [state]
        place = next(each.device for each in (ids, state) if each is not None)
        with ExitStack() as narrow:
            if where is not None and not _everywhere(model):
                narrow.enter_context(_needed_alone(stack.layers[-1], where))
            out = stack.decoder(
                input_ids=ids,
                inputs_embeds=None if state is None else state.new_zeros(*state.shape[:2], width),
                past_key_values=cache,
                use_cache=cache is not None,
                **(decoder or {}),
            )
        given.clear()
        return Output(after.pop().to(place), out.last_hidden_state.to(place))

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


@contextmanager
def _needed_alone(layer: nn.Module, where: Where) -> Iterator[None]:
    """Run the parts of a layer that read one position at a time at these positions only."""

    def at(state_BTH: Tensor) -> Where:
        rows, columns = where
        return rows.to(state_BTH.device), columns.to(state_BTH.device)

    # Only a part that is given states and nothing else can be told apart from what needs them all.
    def gather(_module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        shape.clear()
        if len(args) != 1 or args[0].dim() != 3:
            return None
        shape[:] = [args[0].shape[:2]]
        return (args[0][at(args[0])][None],)

    def scatter(_module: object, _args: object, output: Any) -> Any:
        if not shape:
            return output
        output_1NH = output if isinstance(output, Tensor) else output[0]
        whole_BTH = output_1NH.new_zeros(*shape.pop(), output_1NH.shape[-1])
        whole_BTH[at(whole_BTH)] = output_1NH[0]
        return whole_BTH if isinstance(output, Tensor) else (whole_BTH, *output[1:])

    shape: list[Any] = []
    parts = dict(layer.named_modules())
    hooks = []
    for name in NEEDED_ALONE:
        if name in parts:
            hooks += [
                parts[name].register_forward_pre_hook(gather),
                parts[name].register_forward_hook(scatter),
            ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
