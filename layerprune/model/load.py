"""A located model as something that runs: weights, tokenizer, device."""

import logging
import re
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from layerprune import processes
from layerprune.config.schema import Dtype
from layerprune.errors import UserError
from layerprune.model.source import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load(source: Source, dtype: Dtype | None, device: str, four_bits: bool = False) -> Loaded:
    """The model in `source`, in evaluation mode on `device`; in its files' precision if None.

    With `four_bits` its decoder's weights are held in bitsandbytes' NF4 with double quantisation
    (Dettmers et al., arXiv 2305.14314), and computed with in `dtype`.

    Raises `UserError` where the files are no causal language model, or lack a weight.
    """
    place = torch_device(device)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=getattr(torch, dtype.value) if dtype else "auto",
            use_safetensors=True,
            output_loading_info=True,
            **(_four_bits(dtype or Dtype.float32, place) if four_bits else {}),
        )
        model, report = loaded
        tokenizer = AutoTokenizer.from_pretrained(source.folder)
        model = model.eval() if four_bits else model.eval().to(place)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        log.exception("Loading failed.")
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"model.path: {source.folder} cannot be loaded: {reason}") from error
    _check_keys(source, report)
    for part in model.modules():
        # On a CPU with AVX512-BF16, bitsandbytes 0.50 repacks 4-bit weights at the first forward
        # pass in evaluation mode; from then on gradients through them are silently wrong.
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False
    return Loaded(model, tokenizer)


def _four_bits(dtype: Dtype, place: torch.device) -> dict[str, Any]:
    return {
        "device_map": {"": place},
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype.value),
        ),
    }


def _check_keys(source: Source, report: dict[str, Any]) -> None:
    """Refuse weights that are not those of the configuration: transformers only warns."""
    missing = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if missing:
        raise UserError(
            f"model.path: {source.folder} lacks weights that its config.json asks for "
            f"({len(missing)}, the first is {missing[0]})."
        )
    layers = sorted(key for key in report["unexpected_keys"] if re.search(r"\.\d+\.", key))
    if layers:
        raise UserError(
            f"model.path: {source.folder} holds weights of layers that its config.json does not "
            f"have ({len(layers)}, the first is {layers[0]})."
        )


def torch_device(name: str) -> torch.device:
    """The device that `runtime.device` names; `auto` is a GPU, one a process, if there is any."""
    if name == "auto":
        return torch.device(f"cuda:{processes.local()}" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"runtime.device={name}: use auto, cpu, cuda or cuda:NUMBER.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"runtime.device={name}: no CUDA device is to be seen here.")
    return device
