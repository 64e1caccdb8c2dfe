"""Weights held in fewer bits by bitsandbytes, and computed with in the precision of a model."""

import logging
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from layerprune.config.schema import Dtype, Quantization
from layerprune.errors import UserError
from layerprune.progress import say_once

# It says that an optional kernel of a hub is not there, and with LLM.int8 that it rounds what is
# multiplied to 16 bits first: it is what was asked for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

FEW = 0.5
"""Less than this share of the weights, and a user has asked for something else than what is got."""


def arguments(quantization: Quantization, dtype: Dtype, place: torch.device) -> dict[str, Any]:
    """What transformers' `from_pretrained` is told.

    `nf4`: with double quantisation (Dettmers et al., arXiv 2305.14314). `int8`: LLM.int8, in which
    inputs above 6 are multiplied in 16 bits (Dettmers et al., arXiv 2208.07339).
    """
    if quantization is Quantization.nf4:
        how = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype.value),
        )
    else:
        how = BitsAndBytesConfig(load_in_8bit=True)
    return {"device_map": {"": place}, "quantization_config": how}


def settle(model: PreTrainedModel, quantization: Quantization) -> None:
    """Make a model that was just loaded fit for all that is done with it here.

    Raises `UserError` where its weights were quantised already, or none of them is now.
    """
    asked = f"model.quantization={quantization.value}"
    quantizer: Any = model.hf_quantizer
    if quantizer.pre_quantized:
        raise UserError(f"{asked}: these weights are quantised already; leave it out.")
    plain = sum(part.numel() for part in model.parameters() if part.is_floating_point())
    share = 1 - plain / model.num_parameters()
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
    part: Any
    for part in model.modules():
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
    return sum(held.values())
