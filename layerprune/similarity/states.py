"""The inputs of all layers, caught in one forward pass, and their mean distances.

State l is the input of layer l; state L is the output of the last layer, before the final norm.
Where a family's layers hand on several vectors for each token, a state is all of them in a row.
Letters: B batch, T time, L layers, S = L + 1 states, H hidden size, N tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerprune.config.schema import Tokens
from layerprune.model.spread import input_device
from layerprune.model.stack import DecoderStack, decoder_stack
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
) -> Matrix:
    """Mean over sequences of `metric` between all states at a sequence's tokens: [S, S].

    `batches` yields token ids [B, T], padded on the right, and lengths [B]. One forward pass
    without the head; distances are averaged, not states, and every sequence weighs the same.
    """
    stack = decoder_stack(model)
    total_SS: Tensor | None = None
    count = 0
    with torch.inference_mode():
        for ids_BT, length_B in batches:
            ids_BT = ids_BT.to(input_device(model))
            for states_NSH, sequences in _samples(stack, ids_BT, length_B, tokens):
                summed_SS = metric.summed(states_NSH) * (sequences / len(states_NSH))
                total_SS = summed_SS if total_SS is None else total_SS + summed_SS
            count += len(ids_BT)
            advance(len(ids_BT))
        if total_SS is None:
            raise ValueError("there is no sequence to measure distances on.")
        distances_SS = metric.distances(total_SS / count)
    return distances_SS.cpu().numpy().astype(np.float64)


def _samples(
    stack: DecoderStack, ids_BT: Tensor, length_B: Tensor, tokens: Tokens
) -> Iterator[tuple[Tensor, int]]:
    """States [N, S, H] of tokens that are looked at together, and how many sequences they are of.

    All last tokens of a batch, or all tokens of one sequence: metrics compute in float64, and that
    of a whole batch would be too much at once.
    """
    if tokens is Tokens.last:
        yield last_token_states(stack, ids_BT, length_B), len(ids_BT)
    else:
        for states_NSH in all_token_states(stack, ids_BT, length_B):
            yield states_NSH, 1


def last_token_states(stack: DecoderStack, ids_BT: Tensor, length_B: Tensor) -> Tensor:
    """States [B, S, H] at the last real token of each sequence, float32 or the model's own.

    Only that token is kept while the pass runs: memory is S vectors a sequence, not S x T.
    """
    row_B = torch.arange(len(ids_BT), device=ids_BT.device)
    last_B = length_B.to(ids_BT.device) - 1
    caught: list[Tensor] = []

    def catch(hidden_BTH: Tensor) -> None:
        last_BH = hidden_BTH[row_B.to(hidden_BTH.device), last_B.to(hidden_BTH.device)]
        caught.append(last_BH.flatten(1).to(ids_BT.device))

    with catching(stack, catch):
        # Padding is on the right and attention looks to the left: no real token sees it.
        stack.decoder(input_ids=ids_BT, use_cache=False)
    return torch.stack(caught, dim=1)


def all_token_states(stack: DecoderStack, ids_BT: Tensor, length_B: Tensor) -> Iterator[Tensor]:
    """By sequence, the states [N, S, H] at all of its real tokens but the first, N = length - 1.

    The first token of a sequence attends to nothing but itself, and many models give it a norm that
    is orders of magnitude above all others, for later tokens to attend to (an attention sink, Xiao
    et al., arXiv 2309.17453): it would say nothing of what layers do to text. Memory is S x T
    vectors for each sequence of the batch, in the model's own precision.
    """
    caught: list[Tensor] = []
    with catching(stack, lambda state_BTH: caught.append(state_BTH.to(ids_BT.device))):
        stack.decoder(input_ids=ids_BT, use_cache=False)
    for row, length in enumerate(length_B.tolist()):
        yield torch.stack([state_BTH[row, 1:length].flatten(1) for state_BTH in caught], dim=1)


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
