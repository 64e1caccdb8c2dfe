"""Every recipe by the name that `heal=` takes, and what they share."""

import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, set_seed

from layerprune import memory, processes
from layerprune.config.schema import Config, Quantization
from layerprune.data.sequences import packed, stored_sequences
from layerprune.data.text import Text
from layerprune.heal.course import Course, Subject, known
from layerprune.heal.distill import distill
from layerprune.heal.keep import keep_adapter, keep_weights
from layerprune.heal.linear import fit, fold
from layerprune.heal.loop import Step, Training, arguments, train
from layerprune.heal.lora import lora, qlora
from layerprune.heal.seam import seam
from layerprune.heal.whole import full, tail
from layerprune.model.load import Loaded, load
from layerprune.model.source import Source
from layerprune.model.spread import input_device
from layerprune.model.surgery import drop_layers
from layerprune.plan.plan import Plan
from layerprune.progress import bar

Prepare = Callable[[Subject], Course]
"""Cuts a model, makes the right weights trainable, and says what they are trained on."""

TRAINED: dict[str, Prepare] = {
    "lora": lora, "qlora": qlora, "full": full, "tail": tail, "distill": distill, "seam": seam,
}  # fmt: skip
"""Recipes that train."""


@dataclass(frozen=True)
class Healed:
    """A cut model after its healing."""

    loaded: Loaded
    record: dict[str, Any]
    """As `record.point.Point.healing` has it."""


def heal(
    source: Source,
    plan: Plan,
    text: Text,
    config: Config,
    folder: Path,
    checkpoints: Path,
    heldout: Callable[[PreTrainedModel], float],
) -> Healed:
    """A model of its own, loaded, cut and healed; `heldout` measures its loss on held-out text.

    Training goes on from what it finds in `checkpoints`. What it changed is kept in `folder`, with
    the layers it belongs to; but for `heal=full`, whose weights are kept by an export alone.
    """
    recipe = config.heal
    held = Quantization.nf4 if recipe.recipe == "qlora" else None
    loaded = load(
        source, config.model.dtype, config.runtime.device, held, stream=config.runtime.stream
    )
    model = loaded.model
    if recipe.recipe == "linear":
        ids_ST = _sequences(text, loaded, config, source.fingerprint)
        training = _linear(model, plan, ids_ST, lambda: heldout(model))
    else:
        on_cpu = input_device(model).type == "cpu"
        said = arguments(recipe, checkpoints, config.seed, config.model.dtype, on_cpu)
        with said.main_process_first():
            ids_ST = _sequences(text, loaded, config, source.fingerprint)
        subject = Subject(model, plan, ids_ST, recipe, checkpoints, said.main_process_first)
        set_seed(config.seed)  # the first weights of LoRA are drawn
        started = time.monotonic()
        course = TRAINED[recipe.recipe](subject)
        prepared = time.monotonic() - started
        training = replace(
            train(course, recipe, said, lambda: heldout(model), config.model.dtype),
            prepare_seconds=round(prepared, 3),
        )
        if processes.first() and course.adapted is not None:
            keep_adapter(course.adapted, plan, folder)
    # All of a model's weights are kept only where they are asked for.
    whole = recipe.recipe == "full" and config.export.format != "none"
    if processes.first() and (whole or recipe.recipe in {"linear", "tail", "seam"}):
        keep_weights(model, plan, folder)
    return Healed(loaded, _record(recipe.recipe, training))


def _sequences(text: Text, loaded: Loaded, config: Config, model: str) -> Tensor:
    """Packed healing text [S, T]: of a stream, kept in the cache, since it is slow to come by."""
    recipe = config.heal
    length = known(recipe.sequence_length)
    most = min(
        (recipe.steps or 0) * (recipe.batch_size or 0) or known(recipe.sequences),
        recipe.sequences or sys.maxsize,
    )

    def make() -> Tensor:
        with bar("healing text", total=most) as advance:
            return packed(text.healing, loaded.tokenizer, length, most, advance)

    if isinstance(text.healing, tuple):
        return make()
    named = f"{text.digest} {model} {length} {most}"
    key = hashlib.sha256(named.encode()).hexdigest()[:12]
    return stored_sequences(Path(config.runtime.outputs) / "cache" / "tokens" / f"{key}.npy", make)


def _linear(
    model: PreTrainedModel, plan: Plan, ids_ST: Tensor, heldout: Callable[[], float]
) -> Training:
    model.requires_grad_(False)
    if not plan.dropped:  # the dense model has no seam
        return Training([Step(0, heldout=heldout())], 0, 0.0, 0)
    started = time.monotonic()
    memory.reset_peak(model.device)
    found = fit(model, plan, ids_ST)
    peak = memory.peak(model.device)
    drop_layers(model, plan.dropped)
    seconds = time.monotonic() - started
    steps = [Step(0, heldout=heldout())]
    fold(model, plan, found)
    steps.append(Step(1, heldout=heldout()))
    return Training(
        steps,
        found.tokens,
        round(seconds, 3),
        0,
        peak_memory_bytes=peak,
        details={"ridge": found.ridge, "explained": found.explained},
    )


def _record(recipe: str, training: Training) -> dict[str, Any]:
    measured = [step.heldout for step in training.steps if step.heldout is not None]
    return {
        "recipe": recipe,
        **asdict(training),
        "heldout_before": measured[0],
        "heldout_after": measured[-1],
    }
