"""Remove layers one at a time, each the one that raises the loss least, with few measurements.

The greedy algorithm (SLEB, Song et al., arXiv 2402.09025) measures, before each removal, the loss
without each of the remaining layers. Here most of that does not run:

1. Nothing below a candidate runs again: the states that enter each remaining layer are kept, and
   the pass without a layer starts there.
2. A candidate is measured only while it looks cheapest (lazy greedy, Minoux 1978). Its cost is the
   loss without it minus the loss of the remaining layers, and its cost at an earlier step is taken
   as a lower bound of its cost now.
3. It is measured on a few sequences first, and on more while it still looks cheapest (a race).
   Until all have been used, its cost is taken to be `ERRORS` standard errors lower than measured.

Guaranteed: the removed layer was measured on all sequences, on the remaining layers, and no other
had a lower bound below its cost. Assumed, and not always true: a cost never falls as other layers
are removed, and no cost on a few sequences is off by more than that margin. If this fails, a layer
is removed that is not the cheapest; the next steps can still take the cheaper one.

Letters: B batch, T time, H hidden size, N sequences.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from layerprune.errors import UserError
from layerprune.model.offload import input_device
from layerprune.model.partial_forward import partial_forward
from layerprune.model.stack import Head, count_layer_runs, decoder_stack
from layerprune.prune.layer_distances import BATCH, TRY_DTYPE
from layerprune.prune.removal_order import RemovalOrder
from layerprune.runtime.progress import progress_bar
from layerprune.shared_forward.logprobs import next_token_nats
from layerprune.shared_forward.memory_budget import MemoryBudget

STRIDES = (16, 8, 4, 2, 1)
"""The first share is every 16th sequence, the second adds every 8th, the last all others: each
share is spread over the whole text."""

ERRORS = 2.0
"""Standard errors by which a cost may be off that was measured on some of the sequences."""


class Candidates:
    """The remaining layers, and the loss without each of them.

    Memory: one state [T, H] for each layer and sequence, in the model's precision. The first shares
    are read most often: their states stay on the device as far as `memory_budget` allows, and all
    others wait in the CPU's memory.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        ids_NT: Tensor,
        removed: Sequence[int],
        memory_budget: MemoryBudget | None = None,
    ) -> None:
        self._model = model
        self._head = Head(model)
        layers = range(len(decoder_stack(model).layers))
        self.remaining = [layer for layer in layers if layer not in removed]
        self.shares: list[list[int]] = []
        """Sequence numbers of each share."""
        seen: set[int] = set()
        for stride in STRIDES:
            share = [number for number in range(0, len(ids_NT), stride) if number not in seen]
            if share:
                self.shares.append(share)
            seen.update(share)
        self._device = input_device(model)
        budget = memory_budget or MemoryBudget.of(model)
        states_of_sequence = ids_NT.shape[1] * max(1, len(self.remaining) - 1)
        self._sequences_on_device = budget.buffered_tokens // states_of_sequence
        # By share and batch: the token ids, then the states that enter the second remaining layer,
        # the third, ..., as far as they have been computed.
        self._entering: list[list[list[Tensor]]] = [
            [[ids_BT.to(self._device)] for ids_BT in ids_NT[share].split(BATCH)]
            for share in self.shares
        ]

    def losses(self, share: int, without: int | None = None) -> list[float]:
        """Return the loss of each sequence of a share in nats, if need be without one layer.

        The layers below that one run only once, to compute the state that enters it.
        """
        last = len(self.remaining) - 1
        slot = last if without is None else self.remaining.index(without)
        # Above the last layer there is nothing to run: the layer below computes its output again.
        slot = min(slot, last if without is None else last - 1)
        self._compute_entering(share, slot)
        above = tuple(layer for layer in self.remaining[slot:] if layer != without)
        losses = []
        with partial_forward(self._model, above) as run:
            for entering in self._entering[share]:
                normed_BTH = run(**self._run_inputs(entering[slot])).normed
                nats_BT = next_token_nats(self._head, normed_BTH, entering[0])
                losses += nats_BT.mean(dim=1).tolist()
        return losses

    def remove(self, layer: int) -> None:
        """Remove a layer, and with it the states above it."""
        slot = self.remaining.index(layer)
        del self.remaining[slot]
        for batches in self._entering:
            for entering in batches:
                del entering[slot + 1 :]

    def _compute_entering(self, share: int, slot: int) -> None:
        """Run the layers below `slot` on a share, as far as they have not run."""
        on_device = sum(map(len, self.shares[: share + 1])) <= self._sequences_on_device
        for below in range(len(self._entering[share][0]) - 1, slot):
            with partial_forward(self._model, self.remaining[below : below + 1]) as run:
                for entering in self._entering[share]:
                    state_BTH = run(**self._run_inputs(entering[below])).state
                    entering.append(state_BTH if on_device else state_BTH.cpu())

    def _run_inputs(self, entering: Tensor) -> dict[str, Tensor]:
        """Return token ids for the first layer, states for any other, on the device."""
        name = "state" if entering.is_floating_point() else "ids"
        return {name: entering.to(self._device)}


def extend_lazily(
    model: PreTrainedModel,
    ids_NT: Tensor,
    order: RemovalOrder,
    count: int,
    memory_budget: MemoryBudget | None = None,
) -> None:
    """Add layers to `order` until it has `count`, by the loss in nats per token on `ids_NT`.

    The deepest of equal ones.
    """
    with torch.inference_mode(), count_layer_runs(model) as runs:
        candidates = Candidates(model, ids_NT, order.layers, memory_budget)
        if order.losses:
            losses = dict(enumerate(order.losses))
            bounds = dict(enumerate(order.bounds))
        else:
            losses = {
                number: loss
                for share, numbers in enumerate(candidates.shares)
                for number, loss in zip(numbers, candidates.losses(share), strict=True)
            }
            bounds = dict.fromkeys(candidates.remaining, -math.inf)
        before = 0
        with progress_bar("layers to remove", total=count - len(order.layers)) as advance:
            while len(order.layers) < count:
                layer, cost, losses = _cheapest(candidates, losses, bounds)
                candidates.remove(layer)
                order.add(layer, cost, (runs() - before) / len(ids_NT))
                before = runs()
                advance(1, f"{layer}: {cost:+.3f} nats")
    order.bounds = [bounds[layer] for layer in sorted(bounds)]
    order.losses = [losses[number] for number in sorted(losses)]


def _cheapest(
    candidates: Candidates, losses: dict[int, float], bounds: dict[int, float]
) -> tuple[int, float, dict[int, float]]:
    """Return the cheapest layer, its cost and the losses without it; tighten `bounds`."""
    measured: dict[int, dict[int, float]] = {layer: {} for layer in candidates.remaining}
    shares_seen = dict.fromkeys(candidates.remaining, 0)
    while True:
        layer = min(candidates.remaining, key=lambda layer: (bounds[layer], -layer))
        share, loss_without = shares_seen[layer], measured[layer]
        if share == len(candidates.shares):
            return layer, bounds[layer], loss_without
        numbers = candidates.shares[share]
        loss_without.update(zip(numbers, candidates.losses(share, without=layer), strict=True))
        shares_seen[layer] += 1
        costs = [loss_without[number] - losses[number] for number in loss_without]
        if not all(map(math.isfinite, costs)):
            raise UserError(f"Without layer {layer} the loss is not a number. {TRY_DTYPE}")
        if len(costs) == len(losses):
            bounds[layer] = math.fsum(costs) / len(costs)  # exact, above or below the bound
        else:
            bounds[layer] = max(bounds[layer], _at_least(costs, len(losses)))


def _at_least(costs: Sequence[float], total: int) -> float:
    """Return the mean over `total` sequences, estimated from some, less its possible error."""
    count = len(costs)
    if count < 2:
        return -math.inf
    mean = math.fsum(costs) / count
    variance = math.fsum((cost - mean) ** 2 for cost in costs) / (count - 1)
    return mean - ERRORS * math.sqrt(variance / count * (1 - count / total))
