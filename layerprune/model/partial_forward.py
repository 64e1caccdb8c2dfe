"""Run some of a decoder's layers, from token ids or from a state that is already computed.

Letters: B batch, T time, H hidden size, N chosen positions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from layerprune.model.offload import is_offloaded
from layerprune.model.remote_code import runs_remote_code
from layerprune.model.stack import UnsupportedArchitecture, decoder_stack
from layerprune.model.surgery import limited_to
from layerprune.model.verified import NEED_ALL_POSITIONS, NEED_FULL_FORWARD

POSITIONWISE_PARTS = (
    "mlp", "self_attn.q_proj", "self_attn.o_proj", "attention.dense", "attn.c_proj"
)  # fmt: skip
"""Parts of a layer that read one position at a time and put nothing into keys and values."""

Positions = tuple[Tensor, Tensor]
"""Rows [N] and columns [N] of positions."""


class LayerOutput(NamedTuple):
    """Output of some layers."""

    state: Tensor
    """[B, T, H]: the input of the next layer."""
    normed: Tensor
    """[B, T, H]: the same after the final norm, the input of the head."""


LayerRunner = Callable[..., LayerOutput]
"""Takes `ids` [B, T] or a `state` [B, T, H], and optionally:

- `cache`: keys and values of earlier tokens; the new tokens' are appended.
- `decoder`: keyword arguments of the decoder, such as positions and a mask.
- `positions`: where the output is needed; it is undefined elsewhere.
"""


def supports_partial_forward(model: PreTrainedModel) -> bool:
    """Return True if layers are known to read only the state that the layer before puts out."""
    return model.config.model_type not in NEED_FULL_FORWARD and not runs_remote_code(model)


def runs_layer_by_layer(model: PreTrainedModel) -> bool:
    """Return True if a pass loads and runs one layer at a time, since layers are offloaded."""
    return supports_partial_forward(model) and is_offloaded(decoder_stack(model).layers)


@contextmanager
def partial_forward(model: PreTrainedModel, layers: Sequence[int]) -> Iterator[LayerRunner]:
    """Yield a function that runs only `layers` (at least one, in rising order).

    How it works:
    1. Inside the block the model has no other layers.
    2. The decoder's own `forward` runs, so that masks and positions are the family's.
    3. If a state is passed, it replaces the input of the first layer: the decoder gets zero
       embeddings, and its processing of them has no effect.

    Gradients flow. A cache holds keys and values of these layers alone.
    """
    stack = decoder_stack(model)
    embeddings: Any = model.get_input_embeddings()
    width = int(embeddings.weight.shape[-1])  # differs from the states' in some models
    needs_all_positions = model.config.model_type in NEED_ALL_POSITIONS or runs_remote_code(model)
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def enter(_module: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]):  # type: ignore[no-untyped-def]
        if not inputs:
            return None
        if args:
            return (inputs[0], *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": inputs[0]}

    def leave(_module: object, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        outputs.append(output if isinstance(output, Tensor) else output[0])

    def run(
        ids: Tensor | None = None,
        state: Tensor | None = None,
        cache: DynamicCache | None = None,
        decoder: dict[str, Any] | None = None,
        positions: Positions | None = None,
    ) -> LayerOutput:
        if state is not None and not supports_partial_forward(model):
            raise UnsupportedArchitecture(
                f"{model.config.model_type}: its layers may read more than the state before them, "
                "so a pass cannot start between layers."
            )
        inputs[:] = [] if state is None else [state]
        device = next(tensor.device for tensor in (ids, state) if tensor is not None)
        with ExitStack() as restricted:
            if positions is not None and not needs_all_positions:
                restricted.enter_context(_restricted_to(positions, stack.layers[-1]))
            out = stack.decoder(
                input_ids=ids,
                inputs_embeds=None if state is None else state.new_zeros(*state.shape[:2], width),
                past_key_values=cache,
                use_cache=cache is not None,
                **(decoder or {}),
            )
        inputs.clear()
        return LayerOutput(outputs.pop().to(device), out.last_hidden_state.to(device))

    with (
        limited_to(model, layers),
        stack.layers[0].register_forward_pre_hook(enter, with_kwargs=True),
        stack.layers[-1].register_forward_hook(leave),
    ):
        yield run


@contextmanager
def _restricted_to(positions: Positions, layer: nn.Module) -> Iterator[None]:
    """Run the position-wise parts of a layer at `positions` only; zeros elsewhere."""

    def indices(state_BTH: Tensor) -> Positions:
        rows, columns = positions
        return rows.to(state_BTH.device), columns.to(state_BTH.device)

    # A part is restricted only if its sole input is one state: others may need all positions.
    def gather(_module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        shape.clear()
        if len(args) != 1 or args[0].dim() != 3:
            return None
        shape[:] = [args[0].shape[:2]]
        return (args[0][indices(args[0])][None],)

    def scatter(_module: object, _args: object, output: Any) -> Any:
        if not shape:
            return output
        output_1NH = output if isinstance(output, Tensor) else output[0]
        full_BTH = output_1NH.new_zeros(*shape.pop(), output_1NH.shape[-1])
        full_BTH[indices(full_BTH)] = output_1NH[0]
        return full_BTH if isinstance(output, Tensor) else (full_BTH, *output[1:])

    shape: list[Any] = []
    with ExitStack() as hooks:
        for name, part in layer.named_modules():
            if name in POSITIONWISE_PARTS:
                hooks.enter_context(part.register_forward_pre_hook(gather))
                hooks.enter_context(part.register_forward_hook(scatter))
        yield
