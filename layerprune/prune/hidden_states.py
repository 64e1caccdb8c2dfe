"""The inputs of all layers, captured in one forward pass, and their mean distances.

State l is the input of layer l; state L is the output of the last layer, before the final norm.
If a family's layers pass on several vectors for each token, a state is their concatenation.
Letters: B batch, T time, L layers, S = L + 1 states, H hidden size, N tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from layerprune.config.schema import Tokens
from layerprune.model.offload import input_device, prefetching
from layerprune.model.partial_forward import partial_forward, runs_layer_by_layer
from layerprune.model.stack import DecoderStack, decoder_stack
from layerprune.prune.distance_matrix import Matrix
from layerprune.prune.metrics import TokenMetric
from layerprune.shared_forward.memory_budget import MemoryBudget
from layerprune.shared_forward.spill import BufferedStates, buffer_states, no_states
from layerprune.shared_forward.streaming_eta import announce_eta


def mean_distances(
    model: PreTrainedModel,
    batches: Iterable[tuple[Tensor, Tensor]],
    metric: TokenMetric,
    advance: Callable[[int], None] = lambda sequences: None,
    memory_budget: MemoryBudget | None = None,
) -> Matrix:
    """Return the mean over sequences of `metric` between all states of a token: [S, S].

    `batches` yields token ids [B, T], padded on the right, and lengths [B]. One forward pass
    without the head; distances are averaged, not states, and every sequence has the same weight.
    For a model that is streamed or offloaded, a pass takes as many batches as `memory_budget` can
    buffer states of; it defaults to half of the free memory.
    """
    total_SS: Tensor | None = None
    count, tokens = 0, metric.tokens
    with torch.inference_mode():
        memory_budget = memory_budget or MemoryBudget.of(model)
        for group in _passes(model, batches, tokens, memory_budget):
            states = _states(model, group, tokens, memory_budget.spill)
            for (ids_BT, length_B), states_of_batch in zip(group, states, strict=True):
                for states_NSH, sequences in _token_groups(states_of_batch, length_B, tokens):
                    sum_SS = metric.sum_over_tokens(states_NSH) * (sequences / len(states_NSH))
                    total_SS = sum_SS if total_SS is None else total_SS + sum_SS
                count += len(ids_BT)
                advance(len(ids_BT))
        if total_SS is None:
            raise ValueError("there is no sequence to measure distances on.")
        distances_SS = metric.distances(total_SS / count)
    return distances_SS.cpu().numpy().astype(np.float64)


Sequences = tuple[Tensor, Tensor]
"""Token ids [B, T], padded on the right, and lengths [B]."""


def _passes(
    model: PreTrainedModel,
    batches: Iterable[Sequences],
    tokens: Tokens,
    memory_budget: MemoryBudget,
) -> Iterator[list[Sequences]]:
    """Yield groups of batches that share a pass: single ones for a model in memory."""
    if not runs_layer_by_layer(model):
        yield from ([batch] for batch in batches)
        return
    num_layers = len(decoder_stack(model).layers)
    max_tokens = memory_budget.buffered_tokens // (num_layers + 2 if tokens is Tokens.all else 2)
    passes: list[list[Sequences]] = []
    buffered = total = 0
    for batch in batches:
        size = batch[0].numel()
        if not passes or buffered + size > max_tokens:
            passes.append([])
            buffered = 0
        passes[-1].append(batch)
        buffered += size
        total += size
    every_layer = tuple(range(num_layers))
    announce_eta(model, "distances", [every_layer], memory_budget, passes=len(passes), tokens=total)
    yield from passes


def _states(
    model: PreTrainedModel, batches: Sequence[Sequences], tokens: Tokens, spill: Path | None
) -> Iterator[list[Tensor]]:
    """Yield the S states of each batch: [B, H] of last tokens, or [B, T, H] of all.

    For last tokens, only these are kept during the pass: S vectors per sequence, not S x T.
    """
    stack, device = decoder_stack(model), input_device(model)
    if runs_layer_by_layer(model):
        buffers: list[list[BufferedStates]] = [[] for _ in batches]
        folder = spill if tokens is Tokens.all else None  # last tokens are few
        ids = [ids_BT for ids_BT, _ in batches]
        for _, number, state in states_by_layers(model, ids, len(stack.layers), spill):
            states_BH = _select(state, batches[number][1], tokens, device)
            buffers[number].append(buffer_states((states_BH,), folder))
        yield from ([state for states in buffer for state in states()] for buffer in buffers)
        return
    for ids_BT, length_B in batches:
        selected: list[Tensor] = []

        def select(hidden_BTH: Tensor, to: list[Tensor] = selected, of: Tensor = length_B) -> None:
            to.append(_select(hidden_BTH, of, tokens, device))

        with capture_states(stack, select):
            # Padding is on the right and attention is causal: no real token attends to it.
            stack.decoder(input_ids=ids_BT.to(device), use_cache=False)
        yield selected


def states_by_layers(
    model: PreTrainedModel, batches: Sequence[Tensor], last: int, spill: Path | None
) -> Iterator[tuple[int, int, Tensor]]:
    """Run batches of token ids [B, T] layer by layer, reading each layer once, up to state `last`.

    Yields the number of a state, the number of its batch, and the state: [B, T, H], or what the
    layers of a family pass on. Between layers, states are buffered in memory or in `spill`.
    """
    stack, device = decoder_stack(model), input_device(model)
    layers = list(stack.layers)[: max(last, 1)]
    hidden: list[BufferedStates] = [no_states] * len(batches)
    with prefetching(layers) as read:
        for number, layer in enumerate(layers):
            ends: list[Tensor] = []
            with (
                read(layer),
                partial_forward(model, [number]) as run,
                capture_states(stack, ends.append),
            ):
                for batch, ids_BT in enumerate(batches):
                    before = hidden[batch]()
                    out = run(state=before[0]) if before else run(ids=ids_BT.to(device))
                    hidden[batch] = buffer_states((out.state,), spill)
                    yield number, batch, ends[0]
                    if number + 1 == last == len(layers):
                        yield last, batch, ends[1]
                    ends.clear()


def _select(hidden_BTH: Tensor, length_B: Tensor, tokens: Tokens, device: torch.device) -> Tensor:
    if tokens is Tokens.all:
        return hidden_BTH.to(device)
    row_B = torch.arange(len(hidden_BTH), device=hidden_BTH.device)
    last_BH = hidden_BTH[row_B, length_B.to(hidden_BTH.device) - 1]
    return last_BH.flatten(1).to(device)


def _token_groups(
    states: Sequence[Tensor], length_B: Tensor, tokens: Tokens
) -> Iterator[tuple[Tensor, int]]:
    """Yield states [N, S, H] of tokens that a metric reads together, and their sequences' number.

    These are the last tokens of a batch, or all tokens of one sequence except its first, an
    attention sink (Xiao et al., arXiv 2309.17453): metrics compute in float64, which would need too
    much memory for all tokens of a batch.
    """
    if tokens is Tokens.last:
        yield torch.stack(list(states), dim=1), len(length_B)
        return
    for row, length in enumerate(length_B.tolist()):
        yield torch.stack([state_BTH[row, 1:length].flatten(1) for state_BTH in states], dim=1), 1


@contextmanager
def capture_states(stack: DecoderStack, capture: Callable[[Tensor], None]) -> Iterator[None]:
    """Call `capture` with the input of each layer, in order, and with the last layer's output."""

    def before(_module: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        capture(args[0] if args else kwargs["hidden_states"])

    def after(_module: object, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        capture(output if isinstance(output, Tensor) else output[0])

    hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in stack.layers]
    # The output of the last layer: `output_hidden_states` would give it after the final norm.
    hooks.append(stack.layers[-1].register_forward_hook(after))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
