"""Tiny random models and what tests share. No test needs a network, a GPU or an account."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TQDM_DISABLE"] = "1"

import pytest
import torch
from families import TINY
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from layerprune.config.compose import conf_dir, register, typed
from layerprune.config.schema import Config


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


@pytest.fixture(scope="session")
def tiny_tasks(tmp_path_factory):
    """A folder with one lm-eval task, `letters`: twelve questions with three options each."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "letters.yaml").write_text(
        "task: letters\n"
        "custom_dataset: !function letters.load\n"
        "output_type: multiple_choice\n"
        "test_split: test\n"
        'doc_to_text: "{{question}}"\n'
        'doc_to_choice: "{{choices}}"\n'
        "doc_to_target: answer\n"
        "metric_list:\n"
        "  - metric: acc\n"
        "  - metric: acc_norm\n"
    )
    (folder / "letters.py").write_text(
        "from datasets import Dataset\n"
        "def load(**_):\n"
        "    rows = [\n"
        "        {'question': f'After {chr(97 + at)} comes',\n"
        "         'choices': [chr(98 + at), 'the end', 'x' * (at % 3 + 1)], 'answer': at % 3}\n"
        "        for at in range(12)\n"
        "    ]\n"
        "    return {'test': Dataset.from_list(rows)}\n"
    )
    return folder


def compose(*overrides: str) -> Config:
    """The typed configuration that `python main.py OVERRIDES` would run."""
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return typed(hydra_compose("config", overrides=list(overrides)))


@pytest.fixture(autouse=True)
def no_hydra_left_over():
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()
