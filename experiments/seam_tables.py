"""The tables of `experiments/seam_damage.md` on text, as lines of Markdown, and groups of tokens.

Letters: S sequences, T time.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from seam_passes import OTHERS, WHOLE, Kept, cuts, rises
from torch import Tensor
from transformers import PreTrainedTokenizerBase

FREQUENT, RARE = 100, 10
"""Occurrences of a token in the text that is not held out, of some 68,000 tokens."""

LARGE = 10
"""Times the median norm: a state that is larger is an outlier."""


def mending_table(kept: dict[str, Kept]) -> list[str]:
    """A table: the loss without each block, and how much of its rise a mended seam recovers.

    Standard errors are for means over sequences of the difference on the same sequences.
    """
    whole = kept[WHOLE].loss(kept[WHOLE].own).mean()
    lines = [
        "| removed | loss | the first token's state recovers | of the rise "
        "| all others' recover | of the rise |",
        "|:--|--:|--:|--:|--:|--:|",
        f"| nothing | {whole:.3f} | | | | |",
    ]
    for name, one in cuts(kept).items():
        own_S = one.loss(one.own).mean(axis=1)
        cells = [f"{own_S.mean():.3f}"]
        for mended in (one.layers[0], OTHERS):
            back_S = own_S - one.loss(mended).mean(axis=1)
            error = back_S.std(ddof=1) / np.sqrt(len(back_S))
            cells.append(f"{back_S.mean():z.3f} ± {error:.3f}")
            cells.append(f"{back_S.mean() / (own_S.mean() - whole):z.0%}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def borrowing_table(kept: dict[str, Kept]) -> list[str]:
    """A table: the loss where the first token's state at the seam comes from another layer."""
    borrowed = [set(one.nats) - {OTHERS} for one in cuts(kept).values()]
    layers = sorted(set.union(*borrowed))
    lines = [f"| removed | {' | '.join(map(str, layers))} |", f"|:--|{'--:|' * len(layers)}"]
    for name, one in cuts(kept).items():
        losses = {layer: f"{one.loss(layer).mean():.3f}" for layer in layers if layer in one.nats}
        losses[one.own] = f"**{losses[one.own]}**"
        lines.append(f"| {name} | {' | '.join(losses.get(layer, '') for layer in layers)} |")
    return lines


def layer_table(kept: dict[str, Kept]) -> list[str]:
    """A table: by layer, what the first token's state is, and how far states have drifted."""
    whole = kept[WHOLE]
    lines = [
        f"| layer | norm of the first | of others | large | attention on it "
        f"| {' | '.join(f'{name}: first, others, attention' for name in cuts(kept))} |",
        f"|--:|--:|--:|--:|--:|{':--|' * len(cuts(kept))}",
    ]
    first, others = whole.norm(first=True), whole.norm(first=False)
    norms = np.concatenate(whole.norms, axis=1)[:, :, 1:]
    large = (norms > LARGE * others[:, None, None]).mean(axis=(1, 2))
    for layer in (*whole.layers, len(whole.layers)):
        share = f"{whole.share[layer]:.2f}" if layer in whole.layers else ""
        cells = [f"{first[layer]:.0f}", f"{others[layer]:.0f}", f"{large[layer]:.1%}", share]
        for one in cuts(kept).values():
            slot = layer - one.layers[0]
            if slot < 0:
                cells.append("")
                continue
            angles = f"{one.angle(first=True)[slot]:.3f}, {one.angle(first=False)[slot]:.3f}"
            seen = f", {one.share[slot]:.2f}" if slot < len(one.layers) else ""
            cells.append(f"{angles}{seen}")
        lines.append(f"| {layer if layer in whole.layers else 'end'} | {' | '.join(cells)} |")
    return lines


Groups = dict[str, NDArray[np.bool_]]
"""Masks of the predicted tokens [S, T-1] in each group."""


def counts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Counter[int]:
    """How often each token occurs in texts."""
    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return Counter(token for row in rows for token in row)


def token_groups(ids_ST: Tensor, seen: Counter[int]) -> Groups:
    """The predicted tokens by place, by how often they were seen elsewhere, and by repetition."""
    ids = ids_ST.numpy()
    target = ids[:, 1:]
    place = np.broadcast_to(np.arange(1, ids.shape[1]), target.shape)
    often = np.vectorize(seen.__getitem__, otypes=[np.int64])(target)
    again = np.array([[row[at] in row[:at] for at in range(1, len(row))] for row in ids])
    return {
        "all": np.ones_like(again),
        "at place 1, after the first token alone": place == 1,
        "at place 2 to 15": (place >= 2) & (place < 16),
        "at place 16 to 63": (place >= 16) & (place < 64),
        "at place 64 and on": place >= 64,
        f"frequent ({FREQUENT} times or more)": often >= FREQUENT,
        f"between ({RARE} to {FREQUENT - 1} times)": (often >= RARE) & (often < FREQUENT),
        f"rare (less than {RARE} times)": often < RARE,
        "stood in the sequence before": again,
        "new in the sequence": ~again,
    }


def token_table(kept: dict[str, Kept], groups: Groups) -> list[str]:
    """A table: the loss of each group of tokens, and by how much it rises without each block."""
    names = list(cuts(kept))
    lines = [
        f"| tokens | share | {WHOLE} | {' | '.join(names)} |",
        f"|:--|--:|--:|{'--:|' * len(names)}",
    ]
    rise = rises(kept)
    whole = kept[WHOLE].loss(kept[WHOLE].own)
    for group, chosen in groups.items():
        if not chosen.any():
            continue
        cells = [f"{chosen.mean():.1%}", f"{whole[chosen].mean():.2f}"]
        cells += [f"{rise[name][chosen].mean():+.2f}" for name in names]
        lines.append(f"| {group} | {' | '.join(cells)} |")
    return lines
