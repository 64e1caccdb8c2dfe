"""Tiny random models and a byte tokenizer: fast, and of the same kinds as the real ones."""

import torch
from families import TINY
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


def tiny(family: str, **changes):
    """A random model of a family: 8 layers, hidden size 32, a vocabulary of 96."""
    torch.manual_seed(0)
    config = TINY[family](**changes)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def byte_tokenizer():
    """256 bytes, then three special tokens; every text is as many tokens as it has bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
