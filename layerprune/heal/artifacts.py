"""The adapters or weights that healing changed, saved beside the record."""

from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from layerprune.errors import UserError
from layerprune.model.surgery import limited_to
from layerprune.prune.plan import Plan
from layerprune.runtime.atomic_files import (
    CHECKSUMS,
    CorruptFile,
    replacing_folder,
    verify_checksums,
    write_checksums,
    write_json,
)

ADAPTER = "adapter"
"""A point's folder with LoRA adapters, as peft saves them."""

WEIGHTS = "weights"
"""A point's folder with weights that replace the pruned model's."""


def save_adapter(adapted: PeftModel, plan: Plan, point: Path) -> None:
    """Save LoRA adapters in `point/adapter`, with the layers that they belong to."""
    with replacing_folder(point / ADAPTER) as folder:
        adapted.save_pretrained(str(folder))
        _write_layers(folder, plan)


def save_cut_adapter(adapted: PeftModel, model: PreTrainedModel, plan: Plan, point: Path) -> None:
    """Save the LoRA adapters of a dense model that a plan's layers keep, as the cut model's own."""
    config: Any = adapted.peft_config["default"]
    of_dense = config.target_modules
    with limited_to(model, plan.kept):
        config.target_modules = {
            name for name, part in model.named_modules() if isinstance(part, BaseTunerLayer)
        }
        try:
            save_adapter(adapted, plan, point)
        finally:
            config.target_modules = of_dense


def scale_adapters(adapted: PeftModel, factor: float) -> None:
    """Multiply the output of LoRA adapters by a factor, in place."""
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            parameter.data.mul_(factor)


def save_weights(model: nn.Module, plan: Plan, point: Path) -> None:
    """Save the trainable weights in `point/weights`, with the layers that they belong to."""
    with replacing_folder(point / WEIGHTS) as folder:
        changed = {
            name: parameter.detach().cpu().contiguous()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        save_file(changed, folder / "weights.safetensors", metadata={"format": "pt"})
        _write_layers(folder, plan)


def apply_artifacts(model: PreTrainedModel, point: Path) -> PreTrainedModel:
    """Return the pruned model with the artifacts in `point`: adapters merged or weights replaced.

    The model is changed in place, and keeps its precision. Raises `FileNotFoundError` if there are
    no artifacts, and `UserError` if they are corrupt.
    """
    for folder in (point / ADAPTER, point / WEIGHTS):
        if (folder / CHECKSUMS).is_file():
            try:
                verify_checksums(folder)
            except CorruptFile as error:
                raise UserError(
                    f"{error}: remove {point} and rerun the same command to heal again."
                ) from error
    if (point / ADAPTER).is_dir():
        merged: Any = PeftModel.from_pretrained(model, str(point / ADAPTER)).merge_and_unload()
        return merged
    parameters = dict(model.named_parameters())
    for name, value in load_file(point / WEIGHTS / "weights.safetensors").items():
        parameters[name].data.copy_(value)
    return model


def _write_layers(folder: Path, plan: Plan) -> None:
    """Write the remaining layers: the names in an adapter count the pruned model's slots."""
    write_json(
        folder / "layerprune.json",
        {"num_layers": plan.num_layers, "kept": list(plan.kept), "dropped": list(plan.dropped)},
    )
    write_checksums(folder, [file.name for file in sorted(folder.iterdir()) if file.is_file()])
