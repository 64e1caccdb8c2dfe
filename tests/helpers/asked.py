"""Questions to cut models, answered in one pass and by lm-eval's own backend, one at a time."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tiny import byte_tokenizer

from layerprune.evaluate.request_groups import Answer
from layerprune.evaluate.scorer import Scorer
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import drop_layers
from layerprune.shared_forward.memory_budget import MemoryBudget

FLOAT32 = 7e-7
"""Six steps of float32: a sum of -100 nats is not known to 1e-5."""

MAX_LENGTH = 120
SMALL = MemoryBudget(tokens=64, buffered_tokens=256, logits=1000)
SHOTS = "The following are questions.\n" + "Question: one?\nAnswer: one\n" * 2
PAIRS = [
    # A shared beginning with options of one token, ...
    *((f"{SHOTS}Question: {word}?\nAnswer:", one) for word in ("a", "bcd", "b") for one in "AB"),
    # ... another one with longer options, contexts of one length and of others, ...
    *(
        (f"Some other beginning, long enough. {word}", option)
        for word in ("x", "y", "zz", "")
        for option in (" yes", " no", "!", " a longer one")
    ),
    # ... and what shares nothing.
    ("", "no context at all"),
    ("one", "x"),
    ("long " * 40, " and the end of it"),  # longer than MAX_LENGTH
]  # fmt: skip
FEW = [*PAIRS[:4], *PAIRS[6:10:3], *PAIRS[14:16], PAIRS[22]]
"""Some of every kind but the longest."""


def requests(pairs: Sequence[tuple[str, str]]) -> list[Instance]:
    return [Instance("loglikelihood", {}, arguments=pair, idx=at) for at, pair in enumerate(pairs)]


def answers(
    model: Any, paths: Sequence[tuple[int, ...]], pairs: Sequence[tuple[str, str]]
) -> Iterator[tuple[list[Answer], list[Answer]]]:
    """For each path, the answers of the shared pass and of lm-eval's backend."""
    tokenizer, asked = byte_tokenizer(), requests(pairs)
    scorer = Scorer(model, tokenizer, memory_budget=SMALL, max_length=MAX_LENGTH, paths=paths)
    layers = range(len(decoder_stack(model).layers))
    for scorer.path, path in enumerate(paths):
        cut = drop_layers(copy.deepcopy(model), [at for at in layers if at not in path])
        alone = HFLM(
            pretrained=cut, tokenizer=tokenizer, backend="causal", batch_size=1,
            max_length=MAX_LENGTH,
        )  # fmt: skip
        expected = alone.loglikelihood(asked, disable_tqdm=True)
        yield scorer.loglikelihood(asked), expected


def close(value: float) -> Any:
    """Equal up to rounding."""
    return pytest.approx(value, abs=1e-5, rel=FLOAT32)
