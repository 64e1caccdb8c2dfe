"""All that is asked of one model in memory."""

import time
from dataclasses import dataclass

from torch import Tensor

from layerprune.evaluate.harness import Questions, Score
from layerprune.evaluate.loss import Loss, heldout_loss
from layerprune.evaluate.scorer import Scorer
from layerprune.model.load import Loaded
from layerprune.progress import bar


@dataclass(frozen=True)
class Evaluation:
    """What a model answered, and what that took."""

    scores: list[Score]
    loss: Loss
    parameters: int
    """Of the model as it was asked, tied weights once."""
    device: str
    seconds: dict[str, float]


def evaluate(
    loaded: Loaded, questions: Questions, heldout_ST: Tensor, batch_size: int
) -> Evaluation:
    """Ask a model every question, and measure its loss on held-out sequences [S, T]."""
    started = time.monotonic()
    scores = questions.score(Scorer(loaded.model, loaded.tokenizer, batch_size))
    asked = time.monotonic()
    with bar("held-out loss", total=len(heldout_ST)) as advance:
        loss = heldout_loss(loaded.model, heldout_ST, batch_size, advance)
    done = time.monotonic()
    return Evaluation(
        scores,
        loss,
        parameters=loaded.model.num_parameters(),
        device=str(loaded.model.device),
        seconds={"questions": round(asked - started, 3), "heldout": round(done - asked, 3)},
    )
