"""The inputs of all layers, caught in one forward pass, and their mean distances.

State l is the input of layer l; state L is the output of the last layer, before the final norm.
Where a family's layers hand on several vectors for each token, a state is all of them in a row.
Letters: B batch, T time, L layers, S = L + 1 states, H hidden size, N tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerprune.config.schema import Tokens
from layerprune.model.segment import by_layers, segment
from layerprune.model.spread import input_device, reading_ahead
from layerprune.model.stack import DecoderStack, decoder_stack
from layerprune.paths.passes import announce
from layerprune.paths.room import Room
from layerprune.paths.waiting import Kept, keep, nothing
from layerprune.similarity.metric import Metric
from layerprune.similarity.profile import Matrix


def profile(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    batch_size: int = 8,
    max_length: int = 1024,
) -> Matrix:
    """Mean angular distance between the inputs of every two layers, measured on `texts`.

    Returns a float64 array [L+1, L+1] in units of pi (0.5 = orthogonal): entry [l, l+n] is the
    distance between the input of layer l and the input of layer l+n, and row or column L is the
    last layer's output before the final norm. Each text counts once, by its last token; it is
    truncated to `max_length` tokens. The vocabulary head is not run.

    Source: Gromov et al., arXiv 2403.17887, section 3.2. Raises `ValueError` if there is no text,
    and `UnsupportedArchitecture` if the model's layers cannot be found.
    """
    from layerprune.similarity.angular import angular

    rows = [tokenizer(text, truncation=True, max_length=max_length)["input_ids"] for text in texts]
    if not rows or not all(rows):
        raise ValueError("profile needs at least one text, and at least one token in each.")
    batches = (_padded(rows[at : at + batch_size]) for at in range(0, len(rows), batch_size))
    return mean_distances(model, batches, angular)


def mean_distances(
    model: PreTrainedModel,
    batches: Iterable[tuple[Tensor, Tensor]],
    metric: Metric,
    tokens: Tokens = Tokens.last,
    advance: Callable[[int], None] = lambda sequences: None,
    room: Room | None = None,
) -> Matrix:
    """Mean over sequences of `metric` between all states at a sequence's tokens: [S, S].

    `batches` yields token ids [B, T], padded on the right, and lengths [B]. One forward pass
    without the head; distances are averaged, not states, and every sequence weighs the same. Of a
    model whose layers wait elsewhere, a pass takes as many batches as there is `room` for their
    states, by default in half of what memory is free.
    """
    total_SS: Tensor | None = None
    count = 0
    with torch.inference_mode():
        room = room or Room.of(model)
        for some in _together(model, batches, tokens, room):
            caught = _caught(model, some, tokens, room.spill)
            for (ids_BT, length_B), states in zip(some, caught, strict=True):
                for states_NSH, sequences in _samples(states, length_B, tokens):
                    summed_SS = metric.summed(states_NSH) * (sequences / len(states_NSH))
                    total_SS = summed_SS if total_SS is None else total_SS + summed_SS
                count += len(ids_BT)
                advance(len(ids_BT))
        if total_SS is None:
            raise ValueError("there is no sequence to measure distances on.")
        distances_SS = metric.distances(total_SS / count)
    return distances_SS.cpu().numpy().astype(np.float64)


Sequences = tuple[Tensor, Tensor]
"""Token ids [B, T], padded on the right, and lengths [B]."""


def _together(
    model: PreTrainedModel, batches: Iterable[Sequences], tokens: Tokens, room: Room
) -> Iterator[list[Sequences]]:
    """Batches that run in one pass: one, but for layers that are read again in every pass."""
    if not by_layers(model):
        yield from ([batch] for batch in batches)
        return
    num_layers = len(decoder_stack(model).layers)
    most = room.waiting // (num_layers + 2 if tokens is Tokens.all else 2)
    passes: list[list[Sequences]] = []
    held = total = 0
    for batch in batches:
        size = batch[0].numel()
        if not passes or held + size > most:
            passes.append([])
            held = 0
        passes[-1].append(batch)
        held += size
        total += size
    every_layer = tuple(range(num_layers))
    announce(model, "distances", [every_layer], room, passes=len(passes), tokens=total)
    yield from passes


def _caught(
    model: PreTrainedModel, some: Sequence[Sequences], tokens: Tokens, spill: Path | None
) -> Iterator[list[Tensor]]:
    """Of each batch, the S states: [B, H] of last tokens, or [B, T, H] of all.

    Of last tokens only, no others are kept while the pass runs: S vectors a sequence, not S x T.
    """
    stack, place = decoder_stack(model), input_device(model)
    if by_layers(model):
        yield from _caught_by_layers(model, some, tokens, spill)
        return
    for ids_BT, length_B in some:
        states: list[Tensor] = []

        def catch(hidden_BTH: Tensor, to: list[Tensor] = states, of: Tensor = length_B) -> None:
            to.append(_kept(hidden_BTH, of, tokens, place))

        with catching(stack, catch):
            # Padding is on the right and attention looks to the left: no real token sees it.
            stack.decoder(input_ids=ids_BT.to(place), use_cache=False)
        yield states


def _caught_by_layers(
    model: PreTrainedModel, some: Sequence[Sequences], tokens: Tokens, spill: Path | None
) -> Iterator[list[Tensor]]:
    place = input_device(model)
    caught: list[list[Kept]] = [[] for _ in some]
    # Of last tokens only there is little to keep.
    where = spill if tokens is Tokens.all else None
    every = len(decoder_stack(model).layers)
    for _, at, state in states_by_layers(model, [ids_BT for ids_BT, _ in some], every, spill):
        caught[at].append(keep((_kept(state, some[at][1], tokens, place),), where))
    yield from ([state for kept in of_batch for state in kept()] for of_batch in caught)


def states_by_layers(
    model: PreTrainedModel, batches: Sequence[Tensor], last: int, spill: Path | None
) -> Iterator[tuple[int, int, Tensor]]:
    """The states 0 to `last` of batches of token ids [B, T], of which each layer is read once.

    Yields the number of a state, that of its batch, and the state: [B, T, H], or what the layers of
    a family hand on. Between two layers, states of all batches wait in memory, or in `spill`.
    """
    stack, place = decoder_stack(model), input_device(model)
    layers = list(stack.layers)[: max(last, 1)]
    hidden: list[Kept] = [nothing] * len(batches)
    with reading_ahead(layers) as read:
        for number, layer in enumerate(layers):
            seen: list[Tensor] = []
            with read(layer), segment(model, [number]) as run, catching(stack, seen.append):
                for at, ids_BT in enumerate(batches):
                    before = hidden[at]()
                    out = run(state=before[0]) if before else run(ids=ids_BT.to(place))
                    hidden[at] = keep((out.state,), spill)
                    # Its input and its output, which is the next one's input.
                    yield number, at, seen[0]
                    if number + 1 == last == len(layers):
                        yield last, at, seen[1]
                    seen.clear()


def _kept(hidden_BTH: Tensor, length_B: Tensor, tokens: Tokens, place: torch.device) -> Tensor:
    if tokens is Tokens.all:
        return hidden_BTH.to(place)
    row_B = torch.arange(len(hidden_BTH), device=hidden_BTH.device)
    last_BH = hidden_BTH[row_B, length_B.to(hidden_BTH.device) - 1]
    return last_BH.flatten(1).to(place)


def _samples(
    states: Sequence[Tensor], length_B: Tensor, tokens: Tokens
) -> Iterator[tuple[Tensor, int]]:
    """States [N, S, H] of tokens that are looked at together, and how many sequences they are of.

    All last tokens of a batch, or all tokens of one sequence but its first: metrics compute in
    float64, and that of a whole batch would be too much at once. The first token of a sequence
    attends to nothing but itself, and many models give it a norm that is orders of magnitude above
    all others, for later tokens to attend to (an attention sink, Xiao et al., arXiv 2309.17453): it
    would say nothing of what layers do to text.
    """
    if tokens is Tokens.last:
        yield torch.stack(list(states), dim=1), len(length_B)
        return
    for row, length in enumerate(length_B.tolist()):
        yield torch.stack([state_BTH[row, 1:length].flatten(1) for state_BTH in states], dim=1), 1


@contextmanager
def catching(stack: DecoderStack, catch: Callable[[Tensor], None]) -> Iterator[None]:
    """Call `catch` with the input of each layer, in order, and with the last layer's output."""

    def before(_module: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        catch(args[0] if args else kwargs["hidden_states"])

    def after(_module: object, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        catch(output if isinstance(output, Tensor) else output[0])

    hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in stack.layers]
    # The output of the last layer: `output_hidden_states` would give it after the final norm.
    hooks.append(stack.layers[-1].register_forward_hook(after))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _padded(rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    length_B = torch.tensor([len(row) for row in rows])
    ids_BT = torch.zeros((len(rows), int(length_B.max())), dtype=torch.long)
    for row, ids in enumerate(rows):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
    return ids_BT, length_B
