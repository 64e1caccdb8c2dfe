"""What the dense and the chosen model write after the same words, greedily."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from layerprune.config.schema import Config
from layerprune.fitting.fitted import Sample
from layerprune.model.load import forgetful, torch_device
from layerprune.model.source import Source

NEW_TOKENS = 40


def write_samples(
    prompts: Sequence[str], dense: Source, chosen: Path, config: Config
) -> tuple[Sample, ...]:
    """A sample of each prompt, from one model after the other."""
    before, after = (
        _written(prompts, folder, dense.own_code, config) for folder in (dense.folder, chosen)
    )
    return tuple(map(Sample, prompts, before, after))


def _written(prompts: Sequence[str], folder: Path, own_code: bool, config: Config) -> list[str]:
    tokenizer = forgetful(AutoTokenizer.from_pretrained(folder, trust_remote_code=own_code))
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, config.model.dtype.value), trust_remote_code=own_code
    )
    model.to(torch_device(config.runtime.device))
    texts = []
    for prompt in prompts:
        given = tokenizer(prompt, return_tensors="pt").to(model.device)
        ids_BT = model.generate(
            **given,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        )
        new_T = ids_BT[0, given["input_ids"].shape[1] :]
        texts.append(str(tokenizer.decode(new_T, skip_special_tokens=True)))
    del model
    gc.collect()
    return texts
