"""Every recipe by the name that `heal=` takes, and what they share."""

import hashlib
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from layerprune import memory, processes
from layerprune.config.schema import Config, DeviceMap, held_after
from layerprune.data.sequences import packed, stored_sequences
from layerprune.data.text import Text
from layerprune.errors import UserError
from layerprune.heal.course import Course, Subject, known
from layerprune.heal.distill import distill
from layerprune.heal.keep import keep_adapter, keep_weights
from layerprune.heal.linear import fit, fold
from layerprune.heal.loop import Step, Training, arguments, train
from layerprune.heal.lora import lora, qlora
from layerprune.heal.seam import seam
from layerprune.heal.shared import all_let_go, share_out
from layerprune.heal.whole import full, tail
from layerprune.model.load import Loaded, load, torch_device
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
    keep_all: bool = False,
) -> Healed | None:
    """A model of its own, loaded, cut and healed; `heldout` measures its loss on held-out text.

    Training goes on from what it finds in `checkpoints`. What it changed is kept in `folder`, with
    the layers it belongs to; where that is every weight (`heal=full`), with `keep_all` alone.

    With `runtime.shard` no process holds the model while it is trained; the first one alone has it
    after that, and others None.
    """
    recipe, runtime = config.heal, config.runtime
    held = held_after(recipe.recipe, config.model.quantization)
    work = _Work(source, plan, text, config, checkpoints, heldout)
    shared = runtime.shard
    if shared:
        if processes.count() == 1:
            raise UserError("runtime.shard=true: there is one process, start several by torchrun.")
        work.train(load(source, config.model.dtype, "cpu", held), share=True)
        all_let_go()
        if not processes.first():
            return None
    spread = DeviceMap.auto if shared and torch.cuda.device_count() > 1 else None
    loaded = load(source, config.model.dtype, runtime.device, held, spread, stream=runtime.stream)
    model = loaded.model
    adapted, whole = None, False
    if recipe.recipe == "linear":
        ids_ST = _sequences(text, loaded, config, source.fingerprint)
        training = _linear(model, plan, ids_ST, lambda: heldout(model))
    else:
        # Where weights were shared out, it finds the last checkpoint of that.
        course, training = work.train(loaded, alone=shared)
        adapted, whole = course.adapted, course.whole
    if processes.first():
        if adapted is not None:
            keep_adapter(adapted, plan, folder)
        elif not whole or keep_all:
            keep_weights(model, plan, folder)
    return Healed(loaded, _record(recipe.recipe, training))


@dataclass(frozen=True)
class _Work:
    """What there is to train, but for the model."""

    source: Source
    plan: Plan
    text: Text
    config: Config
    checkpoints: Path
    heldout: Callable[[PreTrainedModel], float]

    def train(
        self, loaded: Loaded, share: bool = False, alone: bool = False
    ) -> tuple[Course, Training]:
        """Cut and train a model that was loaded for it: with others, or `alone`.

        With `share`, its frozen weights are shared out over all processes before.
        """
        model, config, recipe = loaded.model, self.config, self.config.heal
        device = torch_device(config.runtime.device) if share else input_device(model)
        on_cpu = device.type == "cpu"
        said = arguments(recipe, self.checkpoints, config.seed, config.model.dtype, on_cpu)
        ahead = nullcontext if alone else said.main_process_first
        with ahead():
            ids_ST = _sequences(self.text, loaded, config, self.source.fingerprint)
        recompute = share or (recipe.recipe == "qlora" and not on_cpu)
        subject = Subject(model, self.plan, ids_ST, recipe, self.checkpoints, recompute, ahead)
        set_seed(config.seed)  # the first weights of LoRA are drawn
        started = time.monotonic()
        course = TRAINED[recipe.recipe](subject)
        if share:
            share_out(course, model, device)
        prepared = time.monotonic() - started
        training = train(course, recipe, said, lambda: self.heldout(model), config.model.dtype)
        return course, replace(training, prepare_seconds=round(prepared, 3))


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
