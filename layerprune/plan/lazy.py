"""Layers go one at a time, each time the one that the loss misses least, with few measurements.

The greedy algorithm (SLEB, Song et al., arXiv 2402.09025) measures, before each layer that goes,
the loss without each of those that are left. Here most of that is not run:

- Nothing below a candidate runs again: the states that enter each layer of the model that is left
  are kept, and the pass without a layer begins there.
- A candidate is measured only while it is the one that looks best (lazy greedy, Minoux 1978): its
  cost is the loss without it minus the loss of the model that is left, and what it cost at some
  earlier step is taken for the least that it can cost now.
- It is measured on a few sequences first and on more while it still looks best (a race). Until all
  have been seen it is taken to cost `ERRORS` standard errors less than was found.

What is guaranteed: the layer that goes was measured on all sequences, on the model that is left,
and no other layer was thought cheaper. What is assumed, and does not always hold: that a cost never
falls as other layers go, and that no cost is further off on a few sequences than that margin. Where
it fails, a layer goes that is not the cheapest; the next steps can still take the cheaper one.

Letters: B batch, T time, H hidden size, N sequences.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from layerprune.errors import UserError
from layerprune.model.counting import counting
from layerprune.model.segment import segment
from layerprune.model.spread import input_device
from layerprune.model.stack import Head, decoder_stack
from layerprune.paths.scored import scored
from layerprune.plan.order import Order
from layerprune.progress import bar
from layerprune.similarity.measure import TRY_DTYPE

BATCH = 8

STRIDES = (16, 8, 4, 2, 1)
"""The first share are each 16th sequence, the second adds each 8th, the last all others: every
share is spread over all of the text."""

ERRORS = 2.0
"""Standard errors that a cost may be off by, where it was measured on some of the sequences."""


class Candidates:
    """The layers that are left, and the loss without each of them.

    Memory: one state [T, H] for each layer and sequence, in the model's precision.
    """

    def __init__(self, model: PreTrainedModel, ids_NT: Tensor, gone: Sequence[int]) -> None:
        self._model = model
        self._head = Head(model)
        every = range(len(decoder_stack(model).layers))
        self.left = [layer for layer in every if layer not in gone]
        self.shares: list[list[int]] = []
        """Numbers of the sequences of each share."""
        seen: set[int] = set()
        for stride in STRIDES:
            share = [at for at in range(0, len(ids_NT), stride) if at not in seen]
            if share:
                self.shares.append(share)
            seen.update(share)
        device = input_device(model)
        # By share and batch: the token ids, then the states that enter the second layer that is
        # left, the third, ..., as far as they have been asked for.
        self._entering: list[list[list[Tensor]]] = [
            [[ids_BT.to(device)] for ids_BT in ids_NT[share].split(BATCH)] for share in self.shares
        ]

    def losses(self, share: int, without: int | None = None) -> list[float]:
        """The loss of each sequence of a share, in nats, of the model left, or of it less a layer.

        What lies below that layer does not run, but once to know the state that enters it.
        """
        last = len(self.left) - 1
        slot = last if without is None else self.left.index(without)
        # At the very end there is nothing above to run: the layer below puts out the state again.
        slot = min(slot, last if without is None else last - 1)
        self._know(share, slot)
        above = tuple(layer for layer in self.left[slot:] if layer != without)
        found = []
        with segment(self._model, above) as run:
            for entering in self._entering[share]:
                normed_BTH = run(**_given(entering[slot])).normed
                target_BT = entering[0][:, 1:]
                normed_NH = normed_BTH[:, :-1].flatten(0, 1)
                position_N = torch.arange(len(normed_NH), device=normed_NH.device)
                logprob_N, _ = scored(
                    self._head, normed_NH, position_N, target_BT.flatten(), torch.float32
                )
                found += (-logprob_N).double().view(target_BT.shape).mean(dim=1).tolist()
        return found

    def remove(self, layer: int) -> None:
        """Let a layer go: states above it are of no use any more."""
        slot = self.left.index(layer)
        del self.left[slot]
        for batches in self._entering:
            for entering in batches:
                del entering[slot + 1 :]

    def _know(self, share: int, slot: int) -> None:
        """Run what is missing of the layers below `slot` on a share."""
        for below in range(len(self._entering[share][0]) - 1, slot):
            with segment(self._model, self.left[below : below + 1]) as run:
                for entering in self._entering[share]:
                    entering.append(run(**_given(entering[below])).state)


def extend_lazily(model: PreTrainedModel, ids_NT: Tensor, order: Order, count: int) -> None:
    """Add layers to `order` until it has `count`, by the loss in nats per token on `ids_NT`.

    Of equal ones the deepest.
    """
    with torch.inference_mode(), counting(model) as runs:
        candidates = Candidates(model, ids_NT, order.layers)
        if order.losses:
            losses = dict(enumerate(order.losses))
            bounds = dict(enumerate(order.bounds))
        else:
            losses = {
                number: loss
                for share, numbers in enumerate(candidates.shares)
                for number, loss in zip(numbers, candidates.losses(share), strict=True)
            }
            bounds = dict.fromkeys(candidates.left, -math.inf)
        before = 0
        with bar("layers to go", total=count - len(order.layers)) as advance:
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
    """The next layer to go, its cost, and the losses without it; tightens `bounds`."""
    measured: dict[int, dict[int, float]] = {layer: {} for layer in candidates.left}
    shares_seen = dict.fromkeys(candidates.left, 0)
    while True:
        layer = min(candidates.left, key=lambda each: (bounds[each], -each))
        share, found = shares_seen[layer], measured[layer]
        if share == len(candidates.shares):
            return layer, bounds[layer], found
        numbers = candidates.shares[share]
        found.update(zip(numbers, candidates.losses(share, without=layer), strict=True))
        shares_seen[layer] += 1
        costs = [found[number] - losses[number] for number in found]
        if not all(map(math.isfinite, costs)):
            raise UserError(f"Without layer {layer} the loss is not a number. {TRY_DTYPE}")
        if len(costs) == len(losses):
            bounds[layer] = math.fsum(costs) / len(costs)  # it is known now, be it above or below
        else:
            bounds[layer] = max(bounds[layer], _at_least(costs, len(losses)))


def _at_least(costs: Sequence[float], total: int) -> float:
    """A mean over `total` sequences, of which some were seen, less its possible error."""
    count = len(costs)
    if count < 2:
        return -math.inf
    mean = math.fsum(costs) / count
    variance = math.fsum((cost - mean) ** 2 for cost in costs) / (count - 1)
    return mean - ERRORS * math.sqrt(variance / count * (1 - count / total))


def _given(entering: Tensor) -> dict[str, Tensor]:
    """Token ids before the first layer, states before any other."""
    return {"state": entering} if entering.is_floating_point() else {"ids": entering}
