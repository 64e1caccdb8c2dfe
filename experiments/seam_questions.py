"""The questions of `facts`, put to a model without a block of layers.

Letters: B batch, T time, H hidden size.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from seam_passes import WHOLE, Block, above, mend, nats, run
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerprune.evaluate.eval_tasks import OWN_TASKS
from layerprune.model.load import LoadedModel
from layerprune.model.stack import decoder_stack
from layerprune.runtime.progress import progress_bar

SUBJECTS = (
    "capitals", "cities", "continents", "elements", "languages", "state_capitals", "state_codes",
    "us_cities",
)  # fmt: skip
ROWS = 100
"""Questions with one of their options that are read together."""


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
    loaded: LoadedModel, blocks: Sequence[Block], questions: Sequence[Question]
) -> dict[tuple[str, bool], Asked]:
    """What models make of questions, by name, and with the first token's state mended or not."""
    model, tokenizer = loaded.model, loaded.tokenizer
    every = range(len(decoder_stack(model).layers))
    asked = {(WHOLE, False): Asked()}
    asked |= {(block.name, mended): Asked() for block in blocks for mended in (False, True)}
    at_once = max(1, ROWS // len(questions[0].options))
    with progress_bar("questions", total=len(questions)) as advance:
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
    """Every option after its question, as lm-eval evaluates them: one per row."""

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
            # The loss at t belongs to token t + 1.
            answers = [nats_BT[at, self._starts[at] - 1 : self._ends[at] - 1] for at in options]
            sums = [float(each.sum()) for each in answers]
            asked.right.append(int(np.argmin(sums)) == question.right)
            asked.answer += answers[question.right].tolist()
            asked.question += nats_BT[row, : self._starts[row] - 1].tolist()
            row += len(question.options)


def question_table(asked: dict[tuple[str, bool], Asked]) -> list[str]:
    """A table: accuracy, and the loss of the tokens of questions and of their right answers."""
    lines = [
        "| removed | first token | accuracy % | loss of the answer | of the question |",
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
