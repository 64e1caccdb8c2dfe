"""Tiny random models and what tests share. No test needs a network, a GPU or an account."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

import pytest
import torch
from families import TINY
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny models gain nothing from more, and on a busy machine threads wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny_llama():
    return tiny("llama")


def tiny(family: str, **changes):
    """A random model of a family: 8 layers, hidden size 32, a vocabulary of 96."""
    torch.manual_seed(0)
    config = TINY[family](**changes)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A tiny Llama with a byte tokenizer, saved as any model is."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny("llama", vocab_size=259, max_position_embeddings=512).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def byte_tokenizer():
    """256 bytes, then three special tokens; every text is as many tokens as it has bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
