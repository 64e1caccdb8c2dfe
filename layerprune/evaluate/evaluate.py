"""Evaluation of cut models of one model in memory: task scores, held-out loss, size."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from layerprune.evaluate.answer_cache import AnswerCache
from layerprune.evaluate.eval_tasks import EvalTasks
from layerprune.evaluate.heldout_loss import heldout_losses
from layerprune.evaluate.scorer import Scorer
from layerprune.model.load import LoadedModel
from layerprune.model.offload import devices
from layerprune.model.quantized import weight_bytes
from layerprune.model.surgery import limited_to
from layerprune.record.point import HeldoutLoss
from layerprune.record.scores import Score
from layerprune.shared_forward.memory_budget import MemoryBudget
from layerprune.shared_forward.prefix_tree import LayerPath


@dataclass(frozen=True)
class Evaluation:
    """Scores, loss and size of a model, and the cost of their evaluation."""

    scores: list[Score]
    loss: HeldoutLoss
    parameters: int
    """Tied weights once; without LoRA adapters, which an export merges into the weights."""
    weight_bytes: int
    """Bytes of these parameters in memory, quantized ones with their scales."""
    device: str
    seconds: dict[str, float]
    """By stage; the time of a shared pass is divided evenly among its models."""
    shared_by: int
    """Number of models evaluated together, which all have the same peak memory."""


def evaluate_paths(
    loaded: LoadedModel,
    eval_tasks: EvalTasks,
    heldout_ST: Tensor,
    memory_budget: MemoryBudget,
    answer_cache: AnswerCache,
    paths: Sequence[LayerPath] | None = None,
) -> Iterator[Evaluation]:
    """Evaluate the cut models that keep the layers of each path, in their order.

    They are evaluated together; whenever this yields, the model has all its layers. By default, the
    model as it is; `heldout_ST` are sequences [S, T].
    """
    model = loaded.model
    scorer = Scorer(
        model, loaded.tokenizer, memory_budget=memory_budget, paths=paths, answer_cache=answer_cache
    )
    paths = scorer.paths
    started = time.monotonic()
    losses = heldout_losses(model, heldout_ST, paths, memory_budget, answer_cache)
    heldout_s = (time.monotonic() - started) / len(paths)
    for number, path in enumerate(paths):
        started, shared_s = time.monotonic(), scorer.seconds
        scorer.path = number
        scores = eval_tasks.score(scorer)
        # The first path computes the answers of all.
        own_s = time.monotonic() - started - (scorer.seconds - shared_s)
        questions_s = own_s + scorer.seconds / len(paths)
        with limited_to(model, path):
            parameters, num_bytes = _parameters(model), weight_bytes(model)
        yield Evaluation(
            scores,
            losses[number],
            parameters=parameters,
            weight_bytes=num_bytes,
            device=", ".join(map(str, devices(model))),
            seconds={"questions": round(questions_s, 3), "heldout": round(heldout_s, 3)},
            shared_by=len(paths),
        )


def _parameters(model: PreTrainedModel) -> int:
    adapters = sum(part.numel() for name, part in model.named_parameters() if ".lora_" in name)
    return int(model.num_parameters()) - adapters
