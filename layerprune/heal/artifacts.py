"""The adapters or weights that healing changed, saved beside the record."""

from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from layerprune.errors import UserError
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
