"""Weights held in fewer bits by bitsandbytes, and computed with in the precision of a model."""

import logging
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from layerprune.config.schema import Dtype, Quantization
from layerprune.errors import UserError
from layerprune.model.stack import decoder_stack
from layerprune.progress import say_once

# It says that an optional kernel of a hub is not there, and with LLM.int8 that it rounds what is
# multiplied to 16 bits first: it is what was asked for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

ALREADY = "these weights are quantised already; leave it out."

_when_read: WeakKeyDictionary[nn.Module, BitsAndBytesConfig] = WeakKeyDictionary()
"""Parts whose weights wait, and how these are held once they were read."""

_held_bytes: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Of these parts, what their weights took when they were read last."""

FEW = 0.5
"""Less than this share of the weights, and a user has asked for something else than what is got."""


def arguments(quantization: Quantization, dtype: Dtype, place: torch.device) -> dict[str, Any]:
    """What transformers' `from_pretrained` is told."""
    return {"device_map": {"": place}, "quantization_config": _how(quantization, dtype)}


def _how(quantization: Quantization, dtype: Dtype) -> BitsAndBytesConfig:
    """With double quantisation, where `nf4` (Dettmers et al., arXiv 2305.14314).

    `int8`: LLM.int8, in which inputs above 6 are multiplied in 16 bits (Dettmers et al., arXiv
    2208.07339).
    """
    if quantization is Quantization.int8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype.value),
    )


def settle(model: PreTrainedModel, quantization: Quantization) -> None:
    """Make a model that was just loaded fit for all that is done with it here.

    Raises `UserError` where its weights were quantised already, or none of them is now.
    """
    quantizer: Any = model.hf_quantizer
    if quantizer.pre_quantized:
        raise UserError(f"model.quantization={quantization.value}: {ALREADY}")
    plain = sum(part.numel() for part in model.parameters() if part.is_floating_point())
    _check_share(model, quantization, 1 - plain / model.num_parameters())
    for part in model.modules():
        _settle(part)


def settle_when_read(model: PreTrainedModel, quantization: Quantization, dtype: Dtype) -> None:
    """Let the linear layers of a model whose layers wait be held so, each time one is read.

    The same of them as where all is in memory. Raises `UserError` as `settle` does.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        raise UserError(f"model.quantization={quantization.value}: {ALREADY}")
    whole = list(model._keep_in_fp32_modules or [])
    skipped = HfQuantizer.get_modules_to_not_convert(model, None, whole)
    paths = {part: path for path, part in model.named_modules()}
    count = 0
    part: Any
    for layer in decoder_stack(model).layers:
        for part in layer.modules():
            linear = isinstance(part, Conv1D) or type(part) is nn.Linear
            if linear and should_convert_module(paths[part], skipped):
                _when_read[part] = _how(quantization, dtype)
                # Where it is not kept for a while, accelerate's hook reads it and calls this.
                part._old_forward = partial(_run_once, part)
                count += sum(each.numel() for each in part.parameters() if each.dim() > 1)
    _check_share(model, quantization, count / model.num_parameters())
    # As transformers marks what it has quantised itself.
    setattr(model, f"is_loaded_in_{8 if quantization is Quantization.int8 else 4}bit", True)


def in_few_bits(part: nn.Module) -> nn.Module | None:
    """What stands for a part whose weights were just read; None if the part itself does."""
    how = _when_read.get(part)
    if how is None:
        return None
    # bitsandbytes takes its time to be there: only where it is used.
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    holder: Any = nn.Module()
    holder.part = part
    replace_with_bnb_linear(holder, [], how)
    empty, weight = holder.part.weight, part.get_parameter("weight").data
    if isinstance(part, Conv1D):
        weight = weight.T
    settings = {name: value for name, value in vars(empty).items() if name != "SCB"}
    with torch.inference_mode(False):
        # It quantises where it is sent to another device, or to the one that it is on.
        holder.part.weight = type(empty)(weight, requires_grad=False, **settings).to(weight.device)
    holder.part.bias = part.bias
    _settle(holder.part)
    saved = holder.part.state_dict(keep_vars=True)
    _held_bytes[part] = sum(each.nbytes for name, each in saved.items() if name != "bias")
    few: nn.Module = holder.part.eval()
    return few


def _run_once(part: nn.Module, hidden: Tensor) -> Any:
    few = in_few_bits(part)
    assert few is not None
    return few(hidden)


def _check_share(model: PreTrainedModel, quantization: Quantization, share: float) -> None:
    asked = f"model.quantization={quantization.value}"
    if share == 0:
        raise UserError(
            f"{asked}: bitsandbytes takes none of the weights of a {model.config.model_type}, "
            "whose linear layers are of a kind of their own; leave it out."
        )
    if share < FEW:
        say_once(
            f"{asked}: {share:.0%} of the weights are held so, those of linear layers; embeddings, "
            "and experts that are one tensor, are not."
        )


def _settle(part: Any) -> None:
    # On a CPU with AVX512-BF16, bitsandbytes 0.50 repacks 4-bit weights at the first forward
    # pass in evaluation mode; from then on gradients through them are silently wrong.
    if hasattr(part, "support_avx512bf16_for_cpu"):
        part.support_avx512bf16_for_cpu = False


def weight_bytes(model: PreTrainedModel) -> int:
    """Bytes of a model's weights as they are held, tied ones once, without low-rank updates.

    Those that would be saved: bitsandbytes puts the scales of its weights beside them there only.
    """
    saved = model.state_dict(keep_vars=True)  # what is tied is one and the same tensor
    held = {id(each): each.nbytes for name, each in saved.items() if ".lora_" not in name}
    waiting = {
        id(part.get_parameter("weight")): _held_bytes[part]
        for part in model.modules()
        if part in _held_bytes
    }
    return sum((held | waiting).values())
