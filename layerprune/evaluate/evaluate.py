"""All that is asked of cut models of one model in memory."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from layerprune.evaluate.answers import Answers
from layerprune.evaluate.harness import Questions
from layerprune.evaluate.loss import Loss, heldout_losses
from layerprune.evaluate.score import Score
from layerprune.evaluate.scorer import Scorer
from layerprune.model.load import Loaded
from layerprune.model.quantized import weight_bytes
from layerprune.model.spread import devices
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import dropped
from layerprune.paths.room import Room
from layerprune.paths.tree import Path


@dataclass(frozen=True)
class Evaluation:
    """What a model answered, and what that took."""

    scores: list[Score]
    loss: Loss
    parameters: int
    """Tied weights once; without low-rank updates, which go into the weights of a checkpoint."""
    weight_bytes: int
    """Of the same, as they are held: where that is in few bits, with what tells their scale."""
    device: str
    seconds: dict[str, float]
    """What models that were asked together took is shared out evenly among them."""
    shared_by: int
    """How many models were asked together: what was the most in memory, was so for all."""


def evaluate(
    loaded: Loaded,
    questions: Questions,
    heldout_ST: Tensor,
    room: Room,
    stored: Answers | None = None,
) -> Evaluation:
    """Ask a model every question, and measure its loss on held-out sequences [S, T]."""
    every_layer = tuple(range(len(decoder_stack(loaded.model).layers)))
    return next(evaluate_all(loaded, questions, heldout_ST, room, [every_layer], stored))


def evaluate_all(
    loaded: Loaded,
    questions: Questions,
    heldout_ST: Tensor,
    room: Room,
    paths: Sequence[Path],
    stored: Answers | None = None,
) -> Iterator[Evaluation]:
    """The same of every cut model that keeps the layers of one of `paths`, in their order.

    They are asked together; the model itself is whole again whenever this yields. Answers that are
    `stored` are not asked for again.
    """
    model = loaded.model
    num_layers = len(decoder_stack(model).layers)
    scorer = Scorer(model, loaded.tokenizer, room=room, paths=paths, stored=stored)
    started = time.monotonic()
    losses = heldout_losses(model, heldout_ST, paths, room)
    heldout_s = (time.monotonic() - started) / len(paths)
    for number, path in enumerate(paths):
        started, asked_s = time.monotonic(), scorer.seconds
        scorer.path = number
        scores = questions.score(scorer)
        # The first one asked brings the answers of all.
        own_s = time.monotonic() - started - (scorer.seconds - asked_s)
        questions_s = own_s + scorer.seconds / len(paths)
        with dropped(model, [layer for layer in range(num_layers) if layer not in path]):
            parameters, held = _parameters(model), weight_bytes(model)
        yield Evaluation(
            scores,
            losses[number],
            parameters=parameters,
            weight_bytes=held,
            device=", ".join(map(str, devices(model))),
            seconds={"questions": round(questions_s, 3), "heldout": round(heldout_s, 3)},
            shared_by=len(paths),
        )


def answer_some(
    loaded: Loaded, questions: Questions, room: Room, paths: Sequence[Path], stored: Answers
) -> None:
    """Put answers into `stored` that no other process is at, and say nothing of them."""
    scorer = Scorer(
        loaded.model, loaded.tokenizer, room=room, paths=paths, stored=stored, helping=True
    )
    questions.score(scorer)


def _parameters(model: PreTrainedModel) -> int:
    updates = sum(each.numel() for name, each in model.named_parameters() if ".lora_" in name)
    return int(model.num_parameters()) - updates
