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
from layerprune.evaluate.token_cache import TokenCache
from layerprune.model.load import LoadedModel
from layerprune.model.offload import devices
from layerprune.model.quantized import weight_bytes
from layerprune.model.surgery import limited_to
from layerprune.record.point import HeldoutLoss
from layerprune.record.provenance import PromptSharing
from layerprune.record.scores import Score
from layerprune.runtime.progress import say
from layerprune.shared_forward.memory_budget import MemoryBudget
from layerprune.shared_forward.prefix_tree import LayerPath

SAY_STAGES_AFTER = 10.0
"""Seconds of questions after which a message says what took them."""


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
    prompt_sharing: PromptSharing
    seconds: dict[str, float]
    """By stage: `prompts`, their `tokens`, `answers` of the model, `scoring` of the answers, with
    everything that is generated, and the `heldout` loss. Models that share a stage get equal
    shares."""
    shared_by: int
    """Number of models evaluated together, which all have the same peak memory."""


def evaluate_paths(
    loaded: LoadedModel,
    eval_tasks: EvalTasks,
    heldout_ST: Tensor,
    memory_budget: MemoryBudget,
    answer_cache: AnswerCache,
    token_cache: TokenCache,
    paths: Sequence[LayerPath] | None = None,
) -> Iterator[Evaluation]:
    """Evaluate the cut models that keep the layers of each path, in their order.

    They are evaluated together; whenever this yields, the model has all its layers. By default, the
    model as it is; `heldout_ST` are sequences [S, T].
    """
    model = loaded.model
    scorer = Scorer(
        model, loaded.tokenizer, memory_budget=memory_budget, paths=paths,
        answer_cache=answer_cache, token_cache=token_cache,
    )  # fmt: skip
    paths = scorer.paths
    started = time.monotonic()
    losses = heldout_losses(model, heldout_ST, paths, memory_budget, answer_cache)
    heldout_s, prompts_before = time.monotonic() - started, eval_tasks.prompt_seconds

    def shared_seconds() -> dict[str, float]:
        """The first path makes prompts, tokens and answers for all."""
        prompts_s = eval_tasks.prompt_seconds - prompts_before
        return {
            "prompts": prompts_s,
            "tokens": scorer.token_seconds,
            "answers": scorer.pass_seconds,
        }

    for number, path in enumerate(paths):
        started, before = time.monotonic(), shared_seconds()
        scorer.path = number
        scores = eval_tasks.score(scorer)
        shared = shared_seconds()
        scoring_s = time.monotonic() - started - (sum(shared.values()) - sum(before.values()))
        if number == 0 and sum(shared.values()) > SAY_STAGES_AFTER:
            parts = (f"{seconds:.0f} s for {stage}" for stage, seconds in shared.items())
            say(f"questions: {', '.join(parts)}, {scoring_s:.0f} s per model to score them.")
        shared["heldout"] = heldout_s
        seconds = {stage: total / len(paths) for stage, total in shared.items()}
        seconds["scoring"] = scoring_s
        with limited_to(model, path):
            parameters, num_bytes = _parameters(model), weight_bytes(model)
        yield Evaluation(
            scores,
            losses[number],
            parameters=parameters,
            weight_bytes=num_bytes,
            device=", ".join(map(str, devices(model))),
            prompt_sharing=scorer.sharing,
            seconds={stage: round(value, 3) for stage, value in seconds.items()},
            shared_by=len(paths),
        )


def _parameters(model: PreTrainedModel) -> int:
    adapters = sum(part.numel() for name, part in model.named_parameters() if ".lora_" in name)
    return int(model.num_parameters()) - adapters
