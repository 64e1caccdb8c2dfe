"""Rows of questions in a decoder: as trees of tokens where it takes them, or as they are.

In a tree, a token sees those that it goes on from, by a mask, and stands where it would stand
without the others. So what questions and options have in common runs once, and little is padded.

Letters: B batch (rows), T time (tokens of a row), P tokens before all rows, H hidden size, N
positions whose states predict something, M tokens that are asked for.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from layerprune.evaluate.contexts import Answer, Context, Ids, Option
from layerprune.evaluate.rows import Row
from layerprune.model.segment import Run, Where
from layerprune.model.spread import input_device
from layerprune.model.stack import Head, decoder_stack, text_config
from layerprune.paths.scored import scored
from layerprune.paths.waiting import States

log = logging.getLogger(__name__)

CLOSE, CLOSE_16 = 1e-3, 0.05
"""How far apart states may be, relative to their length; the latter in 16 bits."""


class Rows:
    """Some rows that run together."""

    def __init__(
        self,
        rows: Sequence[Row],
        model: PreTrainedModel,
        found: list[dict[int, Answer]],
        trees: bool,
        prefix: Ids = (),
    ) -> None:
        """Answers go into `found`: by path, and then by request.

        The tokens `prefix` come before each row. Without `trees`, rows do not branch, and nothing
        comes before them.
        """
        self._found, self._dtype, self._trees = found, model.dtype, trees
        self.prefix, self._prefix = prefix, len(prefix)
        self._windows = windows(model)
        width = max(map(len, rows))
        self.tokens = len(rows) * width
        ids_BT, depth_BT = torch.zeros(2, len(rows), width, dtype=torch.long)
        self._sees_BTT = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1)
        for at, row in enumerate(rows):
            ids_BT[at, : len(row)] = torch.tensor(row.ids)
            depth_BT[at, : len(row)] = torch.tensor(row.depths)
            for node, parent in enumerate(row.parents):
                if parent >= 0:
                    self._sees_BTT[at, node] |= self._sees_BTT[at, parent]
        device = input_device(model)
        self._ids_BT, self._depth_BT = ids_BT.to(device), depth_BT.to(device)
        self._sees_BTT = self._sees_BTT.to(device)

        asked = [(at, each) for at, row in enumerate(rows) for each in row.asked]
        self._requests = [each.request for _, each in asked]
        pairs = sorted(
            (at * width + node, token, number)
            for number, (at, each) in enumerate(asked)
            for node, token in zip(each.nodes, each.tokens, strict=True)
        )
        place_M, self._token_M, self._asked_M = torch.tensor(pairs, device=device).unbind(1)
        place_N, self._position_M = torch.unique(place_M, return_inverse=True)
        self._where: Where = (place_N // width, place_N % width)

    def run(
        self, run: Run, before: DynamicCache | None, states: States, last: bool
    ) -> tuple[States, States]:
        """All rows at once; after the last branch only what predicts something."""
        given = {"state": states[0]} if states else {"ids": self._ids_BT}
        out = run(
            **given,
            cache=None if before is None else repeated(before, len(self._ids_BT)),
            # No token sees what stands after it: without branches padding needs no mask.
            decoder=self.arguments() if self._trees else None,
            where=self._where if last else None,
        )
        return (out.state,), (out.normed,)

    def end(self, head: Head, path: int, normed: States) -> None:
        """The answers of a path."""
        value_M, likeliest_M = scored(head, normed[0][self._where], self._position_M, self._token_M)
        # Sums in float32: in 16 bits a long option's last tokens would be lost.
        total = value_M.new_zeros(len(self._requests)).index_add_(0, self._asked_M, value_M)
        wrong = (~likeliest_M).float()
        wrong = wrong.new_zeros(len(self._requests)).index_add_(0, self._asked_M, wrong)
        self._found[path].update(
            (request, (value, count == 0))
            for request, value, count in zip(
                self._requests, total.tolist(), wrong.tolist(), strict=True
            )
        )

    def arguments(self) -> dict[str, Any]:
        """What the decoder is told beside the tokens: where they stand, and what they see."""
        masks = {name: self._mask(window) for name, window in self._windows.items()}
        mask = masks if len(masks) > 1 else next(iter(masks.values()))
        return {"position_ids": self._depth_BT + self._prefix, "attention_mask": mask}

    def _mask(self, window: int | None) -> Tensor:
        """[B, 1, T, P + T], added to attention: 0, or the least number where nothing is seen."""
        rows, width = self._depth_BT.shape
        sees = self._sees_BTT
        before = sees.new_ones(rows, width, self._prefix)
        if window is not None:
            depth_BT1 = self._depth_BT[:, :, None]
            places_P = torch.arange(self._prefix, device=sees.device)
            before = depth_BT1 + self._prefix - places_P < window
            sees = sees & (depth_BT1 - self._depth_BT[:, None] < window)
        mask = torch.zeros(rows, width, self._prefix + width, dtype=self._dtype, device=sees.device)
        mask.masked_fill_(~torch.cat([before, sees], dim=2), torch.finfo(self._dtype).min)
        return mask[:, None]


def windows(model: PreTrainedModel) -> dict[str, int | None]:
    """By kind of layer, how many tokens one sees, itself included; None: all before it."""
    config: Any = text_config(model)
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if not kinds:  # one mask for all layers
        return {"": window}
    return {kind: window if kind.startswith("sliding") else None for kind in sorted(kinds)}


def repeated(before: DynamicCache, rows: int) -> DynamicCache:
    """A cache that goes on from what came before, for so many rows."""
    cache = DynamicCache()
    for at, layer in enumerate(before.layers):
        assert isinstance(layer, DynamicLayer)
        assert layer.keys is not None
        assert layer.values is not None
        cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), at)
    return cache


def takes_trees(model: PreTrainedModel) -> bool:
    """Whether a model's states are the same in a tree of tokens as in each of its branches.

    Tried on a few tokens, more of them than a sliding window has: a decoder that keeps a state of
    its own, or does not heed positions or a mask, is found out. With weights in 8 bits there is no
    telling: LLM.int8 rounds a token by the others that run with it.
    """
    if getattr(model, "is_loaded_in_8bit", False):
        return False
    seen = [window for window in windows(model).values() if window is not None]
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(text_config(model).vocab_size)
    prefix, *branches = (
        tuple(torch.randint(vocabulary, (length,), generator=generator).tolist())
        for length in (max(seen, default=0) + 3, 5, 3)
    )
    row = Row()
    for request, ids in enumerate(branches):
        row.add(Context(ids, (Option(request, (0,)),)))
    decoder = decoder_stack(model).decoder
    tree = Rows([row], model, [{}], trees=True, prefix=prefix)
    try:
        with torch.inference_mode():
            cache = DynamicCache()
            decoder(input_ids=_row(prefix, model), past_key_values=cache, use_cache=True)
            together = decoder(
                input_ids=_row(tuple(row.ids), model), past_key_values=cache, use_cache=True,
                **tree.arguments(),
            ).last_hidden_state[0]  # fmt: skip
            alone = torch.cat([
                decoder(input_ids=_row(prefix + ids, model), use_cache=False)
                .last_hidden_state[0, len(prefix) :]
                for ids in branches
            ])  # fmt: skip
    except Exception:  # each architecture has its own ways to refuse
        log.info("A tree of tokens was refused.", exc_info=True)
        return False
    apart = (together - alone).float().norm() / alone.float().norm()
    return bool(apart < (CLOSE_16 if model.dtype.itemsize < 4 else CLOSE))


def _row(ids: Ids, model: PreTrainedModel) -> Tensor:
    return torch.tensor([ids], device=input_device(model))
