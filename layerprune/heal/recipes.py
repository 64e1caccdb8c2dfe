"""Every recipe by the name that `heal=` takes, and what they share."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, set_seed

from layerprune import processes
from layerprune.config.schema import Config, HealConfig
from layerprune.data.sequences import packed
from layerprune.data.text import Text
from layerprune.files import creating_folder, write_json
from layerprune.heal.linear import fit, fold
from layerprune.heal.loop import Step, Training, train
from layerprune.heal.lora import lora, qlora
from layerprune.heal.whole import full, tail
from layerprune.model.load import Loaded, load
from layerprune.model.source import Source
from layerprune.model.surgery import drop_layers
from layerprune.plan.plan import Plan

Prepare = Callable[[PreTrainedModel, HealConfig], Any]
"""Makes of a cut model one in which just the right weights are trainable."""

TRAINED: dict[str, Prepare] = {"lora": lora, "qlora": qlora, "full": full, "tail": tail}
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

    Training goes on from what it finds in `checkpoints`. LoRA's update is kept in `folder/adapter`,
    with the layers it belongs to in `layerprune.json`.
    """
    recipe = config.heal
    four_bits = recipe.recipe == "qlora"
    loaded = load(source, config.model.dtype, config.runtime.device, four_bits)
    model, tokenizer = loaded.model, loaded.tokenizer
    most = recipe.sequences or (recipe.steps or 0) * (recipe.batch_size or 0)
    ids_ST = packed(text.healing, tokenizer, recipe.sequence_length or 0, most)
    if recipe.recipe == "linear":
        return Healed(loaded, _linear(model, plan, ids_ST, heldout))
    drop_layers(model, plan.dropped)
    set_seed(config.seed)  # the first weights of LoRA are drawn
    trained = TRAINED[recipe.recipe](model, recipe)
    training = train(trained, ids_ST, recipe, checkpoints, config.seed, lambda: heldout(model))
    if isinstance(trained, PeftModel) and processes.first():
        _keep_adapter(trained, plan, folder / "adapter")
    return Healed(loaded, _record(recipe.recipe, training, {}))


def _linear(
    model: PreTrainedModel, plan: Plan, ids_ST: Any, heldout: Callable[[PreTrainedModel], float]
) -> dict[str, Any]:
    if not plan.dropped:  # the dense model has no seam
        return _record("linear", Training([Step(0, None, None, heldout(model))], 0, 0.0, 0), {})
    started = time.monotonic()
    found = fit(model, plan, ids_ST)
    drop_layers(model, plan.dropped)
    fitted = time.monotonic() - started
    steps = [Step(0, None, None, heldout(model))]
    fold(model, plan, found)
    steps.append(Step(1, None, None, heldout(model)))
    details = {"ridge": found.ridge, "explained": found.explained}
    return _record("linear", Training(steps, found.tokens, round(fitted, 3), 0), details)


def _record(recipe: str, training: Training, details: dict[str, Any]) -> dict[str, Any]:
    measured = [step.heldout for step in training.steps if step.heldout is not None]
    return {
        "recipe": recipe,
        **asdict(training),
        "heldout_before": measured[0],
        "heldout_after": measured[-1],
        "details": details,
    }


def _keep_adapter(trained: PeftModel, plan: Plan, folder: Path) -> None:
    """Keep an adapter with the list of layers: its names count those of the cut model."""
    if folder.is_dir():
        return
    with creating_folder(folder) as beside:
        trained.save_pretrained(str(beside))
        write_json(
            beside / "layerprune.json",
            {"num_layers": plan.num_layers, "kept": list(plan.kept), "dropped": list(plan.dropped)},
        )
