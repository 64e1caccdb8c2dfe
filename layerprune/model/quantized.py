"""Weights quantised by bitsandbytes to 4 or 8 bits, computed with in the model's precision."""

import logging
from typing import Any, TypeGuard

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from layerprune.config.schema import Dtype, Quantization
from layerprune.errors import UserError
from layerprune.model.stack import decoder_stack
from layerprune.runtime.progress import say_once

# It warns of a missing optional kernel, and that LLM.int8 rounds inputs to 16 bits, as documented.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

ALREADY_QUANTISED = "these weights are quantised already; leave it out."

MIN_SHARE = 0.5
"""If a smaller share of the weights is quantised, a message says so."""


def bnb_config(quantization: Quantization, dtype: Dtype) -> BitsAndBytesConfig:
    """Return bitsandbytes' settings.

    `nf4`: with double quantisation (Dettmers et al., arXiv 2305.14314). `int8`: LLM.int8, which
    multiplies inputs above 6 in 16 bits (Dettmers et al., arXiv 2208.07339).
    """
    if quantization is Quantization.int8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype.value),
    )


def check_quantized(model: PreTrainedModel, quantization: Quantization) -> None:
    """Raise `UserError` unless `bnb_config` quantised a model; prepare it for training."""
    quantizer: Any = model.hf_quantizer
    if quantizer.pre_quantized:
        raise UserError(f"model.quantization={quantization.value}: {ALREADY_QUANTISED}")
    plain = sum(part.numel() for part in model.parameters() if part.is_floating_point())
    _check_share(model, quantization, 1 - plain / model.num_parameters())
    for part in model.modules():
        _disable_repacking(part)


def quantize_when_read(model: PreTrainedModel, quantization: Quantization, dtype: Dtype) -> None:
    """Quantise the linear parts of offloaded layers each time a layer is read.

    They are the same parts that are quantised if the model is in memory.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        raise UserError(f"model.quantization={quantization.value}: {ALREADY_QUANTISED}")
    kept_in_float32 = list(model._keep_in_fp32_modules or [])
    skipped = HfQuantizer.get_modules_to_not_convert(model, None, kept_in_float32)
    paths = {part: path for path, part in model.named_modules()}
    count = 0
    part: Any
    for layer in decoder_stack(model).layers:
        for part in layer.modules():
            linear = isinstance(part, Conv1D) or type(part) is nn.Linear
            if linear and should_convert_module(paths[part], skipped):
                part._bnb_config = bnb_config(quantization, dtype)
                # accelerate's hook calls this for a part that is read for a single forward pass.
                part._old_forward = lambda hidden, part=part: quantized_part(part)(hidden)
                count += sum(weight.numel() for weight in part.parameters() if weight.dim() > 1)
    _check_share(model, quantization, count / model.num_parameters())
    # The mark that transformers sets on models that it quantised.
    setattr(model, f"is_loaded_in_{8 if quantization is Quantization.int8 else 4}bit", True)


def is_quantized(part: nn.Module) -> TypeGuard[nn.Linear]:
    """Return True for a linear layer that bitsandbytes quantised, or quantises when it is read."""
    if "_bnb_config" in vars(part):
        return True
    return isinstance(part, nn.Linear) and not part.weight.is_floating_point()


def quantized_part(part: Any) -> Any:
    """Return the quantised replacement of a part whose weights were just read; None if it has none.

    The part remembers the bytes of its quantised weights for `weight_bytes`.
    """
    config = vars(part).get("_bnb_config")
    if config is None:
        return None
    # Importing bitsandbytes is slow: only where it is used.
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    holder: Any = nn.Module()
    holder.part = part
    replace_with_bnb_linear(holder, [], config)
    empty, weight = holder.part.weight, part.get_parameter("weight").data
    if isinstance(part, Conv1D):
        weight = weight.T
    settings = {name: value for name, value in vars(empty).items() if name not in ("CB", "SCB")}
    with torch.inference_mode(False):
        if config.load_in_8bit:
            from bitsandbytes.functional import int8_vectorwise_quant

            # Int8Params quantises only weights that come from the CPU's memory.
            weight, scales, _ = int8_vectorwise_quant(weight.to(torch.float16))
            settings |= {"CB": weight, "SCB": scales}
        # `to` quantises in 4 bits, even to the device that the weight is on.
        holder.part.weight = type(empty)(weight, requires_grad=False, **settings).to(weight.device)
    holder.part.bias = part.bias
    _disable_repacking(holder.part)
    saved = holder.part.state_dict(keep_vars=True)
    part._quantized_bytes = sum(tensor.nbytes for name, tensor in saved.items() if name != "bias")
    return holder.part.eval()


def _check_share(model: PreTrainedModel, quantization: Quantization, share: float) -> None:
    option = f"model.quantization={quantization.value}"
    if share == 0:
        raise UserError(
            f"{option}: bitsandbytes quantises none of the weights of a {model.config.model_type}, "
            "whose linear layers are a custom class; leave it out."
        )
    if share < MIN_SHARE:
        say_once(
            f"{option}: only linear layers are quantised, {share:.0%} of the weights; "
            "embeddings, and experts that are one tensor, are not."
        )


def _disable_repacking(part: Any) -> None:
    # On a CPU with AVX512-BF16, bitsandbytes 0.50 repacks 4-bit weights at the first forward
    # pass in evaluation mode; from then on gradients through them are silently wrong.
    if hasattr(part, "support_avx512bf16_for_cpu"):
        part.support_avx512bf16_for_cpu = False


def weight_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of a model's weights in memory, tied ones once, without LoRA adapters.

    Counts the state dict, since only there bitsandbytes puts the scales beside the weights. Parts
    that are quantised when they are read count with the bytes of their last reading.
    """
    saved = model.state_dict(keep_vars=True)  # tied weights are the same tensor
    sizes = {id(tensor): tensor.nbytes for name, tensor in saved.items() if ".lora_" not in name}
    for part in model.modules():
        if "_quantized_bytes" in vars(part):
            sizes[id(part.get_parameter("weight"))] = vars(part)["_quantized_bytes"]
    return sum(sizes.values())
