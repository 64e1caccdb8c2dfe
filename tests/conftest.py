"""Tiny random models and what tests share. No test needs a network, a GPU or an account."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

import pytest
import torch
from families import TINY
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    torch.set_num_threads(2)


@pytest.fixture
def tiny_llama():
    return tiny("llama")


def tiny(family: str, **changes):
    """A random model of a family: 8 layers, hidden size 32, a vocabulary of 96."""
    torch.manual_seed(0)
    config = TINY[family](**changes)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
