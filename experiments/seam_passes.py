"""A model without a block of layers, run beside the whole one: states, attention and loss.

A model without a block is the whole one up to the seam, so that every cut starts from the state
that the dense model has there.

Letters: B batch, T time, H hidden size, A attention heads, N tokens predicted, S sequences.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from layerprune.model.partial_forward import partial_forward
from layerprune.model.stack import DecoderStack, Head, decoder_stack
from layerprune.prune.hidden_states import capture_states
from layerprune.runtime.progress import progress_bar
from layerprune.shared_forward.logprobs import next_token_nats

BATCH = 8
WHOLE = "dense model"


class Block(NamedTuple):
    """Layers in a row that are dropped."""

    first: int
    last: int

    @property
    def name(self) -> str:
        """As in `11-18`."""
        return f"{self.first}-{self.last}"

    @property
    def after(self) -> int:
        """The layer above the seam. The state that it reads is what enters `first`."""
        return self.last + 1


class Pass(NamedTuple):
    """What one model makes of a batch."""

    states: list[Tensor]
    """[B, T, H] each: what enters each layer that ran, and what the last one puts out."""
    shares: list[Tensor]
    """[B, T] each: of every layer's attention, the part on the first token, as a mean of heads."""
    normed_BTH: Tensor
    """What the head reads."""


Mended = int | None
"""What is mended at a seam: nothing but the first token, whose state is what enters that layer of
the dense model; or all other tokens."""

OTHERS: Mended = None


@dataclass
class Kept:
    """What is kept of one model's passes over the text."""

    own: Mended
    """Of the states at a seam, what it has anyway: the layer that these would have entered."""
    layers: range
    """Those whose inputs were looked at; after them the output of the last."""
    angles: list[NDArray[np.float64]] = field(default_factory=list)
    """By batch [layers + 1, B, T], to the dense model's states, in units of pi."""
    norms: list[NDArray[np.float64]] = field(default_factory=list)
    """Likewise, of the states themselves."""
    shares: list[NDArray[np.float64]] = field(default_factory=list)
    """By batch [layers, B, T]."""
    nats: dict[Mended, list[NDArray[np.float64]]] = field(default_factory=dict)
    """By what was mended at the seam, by batch [B, T-1]: minus the log-probability of each token
    after the first."""

    def add(self, found: Pass, states: Sequence[Tensor]) -> None:
        """Add a pass, and the dense model's states at the same layers."""
        pairs = zip(found.states, states, strict=True)
        self.angles.append(np.stack([angle(*pair).numpy() for pair in pairs]))
        self.norms.append(np.stack([each.norm(dim=-1).double().numpy() for each in found.states]))
        self.shares.append(np.stack([each.double().numpy() for each in found.shares]))

    def add_loss(self, mended: Mended, nats_BT: Tensor) -> None:
        """Add the loss of a batch."""
        self.nats.setdefault(mended, []).append(nats_BT.numpy())

    def angle(self, first: bool) -> NDArray[np.float64]:
        """Mean over the first tokens, or all others: [layers + 1]."""
        return _mean(self.angles, first)

    def norm(self, first: bool) -> NDArray[np.float64]:
        """Median over the first tokens, or all others: [layers + 1]."""
        whole = np.concatenate(self.norms, axis=1)
        return np.median(whole[:, :, :1] if first else whole[:, :, 1:], axis=(1, 2))

    @property
    def share(self) -> NDArray[np.float64]:
        """Of the attention of all tokens but the first: [layers]."""
        return _mean(self.shares, first=False)

    def loss(self, mended: Mended) -> NDArray[np.float64]:
        """Nats of each token after the first: [S, T-1]."""
        return np.concatenate(self.nats[mended])


def run(
    model: PreTrainedModel, layers: Sequence[int], ids_BT: Tensor, state: Tensor | None = None
) -> Pass:
    """Run some layers, from token ids or from the state that enters the first of them."""
    states: list[Tensor] = []
    shares: list[Tensor] = []
    with torch.inference_mode(), partial_forward(model, layers) as through:
        stack = decoder_stack(model)
        with capture_states(stack, states.append), attending(stack, shares):
            out = through(ids=ids_BT) if state is None else through(state=state)
    return Pass(states, shares, out.normed)


def above(model: PreTrainedModel, first: int, state_BTH: Tensor) -> Tensor:
    """What the head reads [B, T, H] of the layers from `first` on, given what enters them."""
    layers = range(first, len(decoder_stack(model).layers))
    with torch.inference_mode(), partial_forward(model, layers) as through:
        return through(state=state_BTH).normed


@torch.inference_mode()
def nats(model: PreTrainedModel, normed_BTH: Tensor, ids_BT: Tensor) -> Tensor:
    """Return minus the log-probability of each token after the first [B, T-1], float64."""
    return next_token_nats(Head(model), normed_BTH, ids_BT)


@contextmanager
def attending(stack: DecoderStack, shares: list[Tensor]) -> Iterator[None]:
    """Keep how much of each layer's attention is on the first token: [B, T], a mean over heads."""

    def after(_module: object, _args: object, output: tuple[Tensor, Tensor]) -> None:
        shares.append(output[1][..., 0].mean(dim=1))  # of [B, A, T, T]

    hooks = [layer.self_attn.register_forward_hook(after) for layer in stack.layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def angle(a_BTH: Tensor, b_BTH: Tensor) -> Tensor:
    """The angle between states in units of pi: [B, T], float64."""
    a_BTH, b_BTH = (torch.nn.functional.normalize(each.double(), dim=-1) for each in (a_BTH, b_BTH))
    # By the chord: the arc cosine says 1e-8 of equal states.
    chord_BT = (a_BTH - b_BTH).norm(dim=-1).clamp(max=2.0)
    return 2 * torch.arcsin(chord_BT / 2) / torch.pi


def mend(states: Sequence[Tensor], block: Block, mended: Mended) -> Tensor:
    """What enters the layer above a seam, given the dense model's states and what is mended."""
    seam_BTH, whole_BTH = states[block.first], states[block.after]
    if mended is OTHERS:
        return torch.cat([seam_BTH[:, :1], whole_BTH[:, 1:]], dim=1)
    return torch.cat([states[mended][:, :1], seam_BTH[:, 1:]], dim=1)


def watch(model: PreTrainedModel, ids_ST: Tensor, blocks: Sequence[Block]) -> dict[str, Kept]:
    """The dense model and the one without each block, by name, on token sequences [S, T].

    Each block's first token borrows its state at the seam from every layer at which another block
    begins or ends, as far as that is not above its own seam.
    """
    every = range(len(decoder_stack(model).layers))
    ends = sorted({end for block in blocks for end in (block.first, block.after)})
    kept = {WHOLE: Kept(own=0, layers=every)}
    kept |= {block.name: Kept(own=block.first, layers=every[block.after :]) for block in blocks}
    with progress_bar("reading", total=len(ids_ST)) as advance:
        for ids_BT in ids_ST.split(BATCH):
            whole = run(model, every, ids_BT)
            kept[WHOLE].add(whole, whole.states)
            kept[WHOLE].add_loss(0, nats(model, whole.normed_BTH, ids_BT))
            for block in blocks:
                one = kept[block.name]
                found = run(model, one.layers, ids_BT, whole.states[block.first])
                one.add(found, whole.states[block.after :])
                one.add_loss(one.own, nats(model, found.normed_BTH, ids_BT))
                for mended in (*(end for end in ends if end <= block.after), OTHERS):
                    if mended == one.own:
                        continue
                    normed_BTH = above(model, block.after, mend(whole.states, block, mended))
                    one.add_loss(mended, nats(model, normed_BTH, ids_BT))
            advance(len(ids_BT))
    return kept


def cuts(kept: dict[str, Kept]) -> dict[str, Kept]:
    """All but the dense model."""
    return {name: one for name, one in kept.items() if name != WHOLE}


def rises(kept: dict[str, Kept]) -> dict[str, NDArray[np.float64]]:
    """By how much each token's loss [S, T-1] is above the dense model's, without each block."""
    whole = kept[WHOLE].loss(kept[WHOLE].own)
    return {name: one.loss(one.own) - whole for name, one in cuts(kept).items()}


def _mean(found: Sequence[NDArray[np.float64]], first: bool) -> NDArray[np.float64]:
    whole = np.concatenate(found, axis=1)
    return (whole[:, :, :1] if first else whole[:, :, 1:]).mean(axis=(1, 2))
