"""What a healing changed, kept beside its record, and put into a cut model again."""

from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from layerprune.errors import UserError
from layerprune.files import SUMS, Damaged, check_sums, replacing_folder, write_json, write_sums
from layerprune.plan.plan import Plan

ADAPTER = "adapter"
"""Folder of a point with a low-rank update, as peft saves one."""

WEIGHTS = "weights"
"""Folder of a point with weights that take the place of the cut model's."""


def keep_adapter(adapted: PeftModel, plan: Plan, point: Path) -> None:
    """Keep a low-rank update in `point/adapter`, with the layers that it belongs to."""
    with replacing_folder(point / ADAPTER) as beside:
        adapted.save_pretrained(str(beside))
        _write_layers(beside, plan)


def keep_weights(model: nn.Module, plan: Plan, point: Path) -> None:
    """Keep a cut model's trainable weights in `point/weights`, with the layers they belong to."""
    with replacing_folder(point / WEIGHTS) as beside:
        changed = {
            name: part.detach().cpu().contiguous()
            for name, part in model.named_parameters()
            if part.requires_grad
        }
        save_file(changed, beside / "weights.safetensors", metadata={"format": "pt"})
        _write_layers(beside, plan)


def healed(model: PreTrainedModel, point: Path) -> PreTrainedModel:
    """The cut model with what is kept in the point's folder: the update merged, weights replaced.

    The model is changed in place, and keeps its precision. Raises `FileNotFoundError` if nothing
    was kept, and `UserError` if it was damaged since.
    """
    for kept in (point / ADAPTER, point / WEIGHTS):
        if (kept / SUMS).is_file():
            try:
                check_sums(kept)
            except Damaged as error:
                raise UserError(
                    f"{error}: remove {point}, and run this again to heal anew."
                ) from error
    if (point / ADAPTER).is_dir():
        merged: Any = PeftModel.from_pretrained(model, str(point / ADAPTER)).merge_and_unload()
        return merged
    weights = load_file(point / WEIGHTS / "weights.safetensors")
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        parameters[name].data.copy_(value)
    return model


def _write_layers(folder: Path, plan: Plan) -> None:
    """The layers that stayed: names inside an adapter count the slots of the cut model."""
    write_json(
        folder / "layerprune.json",
        {"num_layers": plan.num_layers, "kept": list(plan.kept), "dropped": list(plan.dropped)},
    )
    write_sums(folder, [file.name for file in sorted(folder.iterdir()) if file.is_file()])
