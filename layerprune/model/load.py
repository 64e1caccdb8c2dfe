"""A located model as something that runs: weights, tokenizer, device."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from layerprune.config.schema import Dtype
from layerprune.errors import UserError
from layerprune.model.source import Source


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load(source: Source, dtype: Dtype, device: str) -> Loaded:
    """The model in `source`, in evaluation mode on `device`.

    Raises `UserError` where the files are no causal language model, or lack a weight.
    """
    place = torch_device(device)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=getattr(torch, dtype.value),
            use_safetensors=True,
            output_loading_info=True,
        )
        model, report = loaded
        tokenizer = AutoTokenizer.from_pretrained(source.folder)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"model.path: {source.folder} cannot be loaded: {reason}") from error
    missing = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if missing:
        raise UserError(
            f"model.path: {source.folder} lacks weights that its config.json asks for "
            f"({len(missing)}, the first is {missing[0]})."
        )
    return Loaded(model.eval().to(place), tokenizer)


def torch_device(name: str) -> torch.device:
    """The device that `runtime.device` names; `auto` is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"runtime.device={name}: use auto, cpu, cuda or cuda:NUMBER.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"runtime.device={name}: no CUDA device is to be seen here.")
    return device
