"""Batches of token trees in a decoder.

In a tree, a mask lets a token see its ancestors alone, and its position is its depth. So prompts
and options run once where they begin alike, with little padding. For decoders that do not support
this, trees do not branch.

Letters: B batch (trees), T time (tokens of a tree), P tokens of the common prefix, H hidden size, N
positions whose states predict a token, M scored tokens.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from layerprune.evaluate.request_groups import Context, Ids, Option, PathAnswers
from layerprune.evaluate.token_tree import TokenTree
from layerprune.model.offload import input_device
from layerprune.model.partial_forward import LayerRunner, Positions, partial_forward
from layerprune.model.stack import Head, decoder_stack, text_config
from layerprune.shared_forward.logprobs import token_logprobs
from layerprune.shared_forward.spill import States

log = logging.getLogger(__name__)

MAX_DIFFERENCE_32_BIT = 1e-3
"""Of tiny models of all types, a layer in float32 differs by less than 1e-6, or by more than 0.03;
in bfloat16 by 0.003 at most. A GPU may multiply float32 in TF32."""


class TokenTreeBatch:
    """Trees that run together."""

    def __init__(
        self,
        trees: Sequence[TokenTree],
        model: PreTrainedModel,
        answers: Sequence[PathAnswers],
        branching: bool,
        prefix: Ids = (),
    ) -> None:
        """Collect the answers of each path in `answers`.

        The tokens `prefix` precede each tree. Unless `branching`, trees have no branches, and there
        is no prefix.
        """
        self._answers, self._dtype, self._branching = answers, model.dtype, branching
        self.prefix, self._prefix = prefix, len(prefix)
        self._windows = windows(model)
        width = max(map(len, trees))
        self.tokens = len(trees) * width
        ids_BT, depth_BT = torch.zeros(2, len(trees), width, dtype=torch.long)
        sees_BTT = np.zeros((len(trees), width, width), dtype=np.bool_)
        for row, (tree, sees_TT) in enumerate(zip(trees, sees_BTT, strict=True)):
            ids_BT[row, : len(tree)] = torch.tensor(tree.ids)
            depth_BT[row, : len(tree)] = torch.tensor(tree.depths)
            for node, parent in enumerate(tree.parents):
                if parent >= 0:
                    sees_TT[node] = sees_TT[parent]
                sees_TT[node, node] = True
            np.fill_diagonal(sees_TT, True)  # padding
        device = input_device(model)
        self._ids_BT, self._depth_BT = ids_BT.to(device), depth_BT.to(device)
        self._sees_BTT = torch.from_numpy(sees_BTT).to(device)

        options = [(row, option) for row, tree in enumerate(trees) for option in tree.options]
        self._requests = [option.request for _, option in options]
        triples = sorted(
            (row * width + node, token, number)
            for number, (row, option) in enumerate(options)
            for node, token in zip(option.nodes, option.tokens, strict=True)
        )
        place_M, self._token_M, self._option_M = torch.tensor(triples, device=device).unbind(1)
        place_N, self._position_M = torch.unique(place_M, return_inverse=True)
        self._scored: Positions = (place_N // width, place_N % width)

    def run(
        self, run: LayerRunner, before: DynamicCache | None, states: States, last: bool
    ) -> tuple[States, States]:
        """Run some layers; after the last branch only at the positions that predict a token."""
        given = {"state": states[0]} if states else {"ids": self._ids_BT}
        out = run(
            **given,
            cache=None if before is None else continued(before),
            # Without branches no mask is needed: padding comes last, and attention is causal.
            decoder=self.decoder_arguments() if self._branching else None,
            positions=self._scored if last else None,
        )
        return (out.state,), (out.normed,)

    def end(self, head: Head, path: int, normed: States) -> None:
        """Add the answers of a path."""
        value_M, likeliest_M = token_logprobs(
            head, normed[0][self._scored], self._position_M, self._token_M
        )
        # Sums in float32: in 16 bits a long option's last tokens would be lost.
        total = value_M.new_zeros(len(self._requests)).index_add_(0, self._option_M, value_M)
        wrong = (~likeliest_M).float()
        wrong = wrong.new_zeros(len(self._requests)).index_add_(0, self._option_M, wrong)
        self._answers[path].update(
            (request, (value, count == 0))
            for request, value, count in zip(
                self._requests, total.tolist(), wrong.tolist(), strict=True
            )
        )

    def decoder_arguments(self) -> dict[str, Any]:
        """Return the positions and the attention masks of the tokens."""
        masks = {name: self._mask(window) for name, window in self._windows.items()}
        mask = masks if len(masks) > 1 else next(iter(masks.values()))
        return {"position_ids": self._depth_BT + self._prefix, "attention_mask": mask}

    def _mask(self, window: int | None) -> Tensor:
        """Return a mask [B, 1, T, P + T] to add to the scores: 0 if seen, else the least number."""
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
    """Return the sliding window of each kind of layer, in tokens; None for full attention."""
    config: Any = text_config(model)
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if not kinds:  # one mask for all layers
        return {"": window}
    return {kind: window if kind.startswith("sliding") else None for kind in sorted(kinds)}


class _PrefixLayer(DynamicLayer):
    """The keys and values of a prefix in a layer, for sequences that continue it.

    New ones follow the prefix's in what attention sees, and are not kept: a copy per sequence and
    layer would take more memory than everything else.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Return the prefix's keys and values with new ones [B, heads, T, width] after them."""
        assert self.keys is not None
        assert self.values is not None
        rows = len(key_states)
        return (
            torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=2),
            torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=2),
        )


def continued(before: DynamicCache) -> DynamicCache:
    """Return a cache for any number of continuations of `before`, which stays as it is."""
    cache = DynamicCache()
    for layer in before.layers:
        assert isinstance(layer, DynamicLayer)
        assert layer.keys is not None
        assert layer.values is not None
        cache.layers.append(_PrefixLayer(layer.keys, layer.values))
    return cache


def tree_difference(model: PreTrainedModel) -> float:
    """Return how far a layer's states in a tree of tokens are from those in each of its branches.

    That is the norm of the difference, relative to the states', for the worst of one layer of each
    kind; infinite if the decoder cannot run trees. Alone, a layer differs by rounding or by much,
    where differences of a whole decoder add up. This is tried on more tokens than a sliding window
    has. It detects decoders with a recurrent state, and those that ignore positions or masks.
    LLM.int8 is never supported: it rounds a token by the others of its batch.
    """
    if getattr(model, "is_loaded_in_8bit", False):
        return math.inf
    sizes = [window for window in windows(model).values() if window is not None]
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(text_config(model).vocab_size)
    prefix, *branches = (
        tuple(torch.randint(vocabulary, (length,), generator=generator).tolist())
        for length in (max(sizes, default=0) + 3, 5, 3)
    )
    tree = TokenTree()
    for request, ids in enumerate(branches):
        tree.add(Context(ids, (Option(request, (0,)),)))
    batch = TokenTreeBatch([tree], model, [{}], branching=True, prefix=prefix)
    differences = []
    try:
        for layer in _layers_by_kind(model):
            with torch.inference_mode(), partial_forward(model, [layer]) as run:
                cache = DynamicCache()
                run(ids=_row(prefix, model), cache=cache)
                together = run(
                    ids=_row(tuple(tree.ids), model),
                    cache=continued(cache),
                    decoder=batch.decoder_arguments(),
                ).normed[0]
                alone = torch.cat([
                    run(ids=_row(prefix + ids, model)).normed[0, len(prefix) :] for ids in branches
                ])  # fmt: skip
            differences.append(float((together - alone).float().norm() / alone.float().norm()))
    except Exception:  # architectures raise any error
        log.info("The decoder does not support token trees.", exc_info=True)
        return math.inf
    return max(differences) if all(map(math.isfinite, differences)) else math.inf


def max_tree_difference(model: PreTrainedModel) -> float:
    """Return the largest `tree_difference` that rounding explains."""
    dtype = model.dtype
    return 2 * torch.finfo(dtype).eps if dtype.itemsize < 4 else MAX_DIFFERENCE_32_BIT


def _layers_by_kind(model: PreTrainedModel) -> list[int]:
    """Return the first layer of each kind: layers are alike if all their modules' settings are."""
    layers = decoder_stack(model).layers
    kinds = getattr(text_config(model), "layer_types", None) or [""] * len(layers)
    first: dict[object, int] = {}
    for number, (layer, kind) in enumerate(zip(layers, kinds, strict=False)):
        settings = [
            (type(part), name, value)
            for part in layer.modules()
            for name, value in sorted(vars(part).items())
            if isinstance(value, bool | int | float | str) and "layer" not in name
        ]
        first.setdefault((kind, *settings), number)
    return list(first.values())


def _row(ids: Ids, model: PreTrainedModel) -> Tensor:
    return torch.tensor([ids], device=input_device(model))
