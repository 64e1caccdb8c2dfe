"""Load a located model: weights, tokenizer, device."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from layerprune.config.schema import DeviceMap, Dtype, Quantization
from layerprune.data.conversations import (
    Conversation,
    RenderConversation,
    RenderedText,
    plain_turn,
)
from layerprune.errors import UserError, explained
from layerprune.model import quantized
from layerprune.model.config_surgery import remove_unknown_fields
from layerprune.model.offload import OffloadPlan, disk_device_map
from layerprune.model.source import Source
from layerprune.runtime import processes

COMPUTED = re.compile(r"(rotary_emb\.\w+|\.masked_bias|\.attn\.bias|position_ids)$")
"""Buffers in old files that transformers computes itself."""

TOKENIZER = re.compile(r"tokeni[sz]|vocab|merges|spiece|\.model$|\.bpe$|\.tiktoken$|\.py$")
"""Names of files that a tokenizer is read from."""

FIELDS = {"padding_idx": "pad_token_id", "num_embeddings": "vocab_size"}
"""Fields of a configuration by the names that PyTorch's errors have for them."""

META = {"device_map": {"": "meta"}}
"""Settings that load no weights."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load(
    source: Source,
    dtype: Dtype | None,
    device: str,
    quantization: Quantization | None = None,
    device_map: DeviceMap | None = None,
    stream: bool = False,
) -> LoadedModel:
    """Load the model in `source` for evaluation on `device`, in its files' dtype by default.

    With `quantization` the weights of its linear layers are quantised, and computed with in
    `dtype`. `device_map` distributes the model over all devices instead of `device`. With `stream`
    the layers stay on disk until they run.

    Raises `UserError` if the files are no causal language model, or lack a weight.
    """
    place = torch_device(device)
    # Weights go to a GPU one by one, and never fill the CPU's memory.
    settings: dict[str, Any] = {"device_map": {"": place}}
    if quantization and not stream:
        bnb_config = quantized.bnb_config(quantization, dtype or Dtype.float32)
        settings["quantization_config"] = bnb_config
    offload = None
    if stream:
        offload = OffloadPlan(disk_device_map(open_model(source, dtype, META)[0], place))
    elif device_map:
        offload = OffloadPlan()
    if offload:
        settings |= offload.arguments
    model, _ = open_model(source, dtype, settings)
    model = model.eval()
    tokenizer = load_tokenizer(source)
    if quantization and stream:
        quantized.quantize_when_read(model, quantization, dtype or Dtype.float32)
    elif quantization:
        quantized.check_quantized(model, quantization)
    if offload:
        offload.attach_to(model)
    return LoadedModel(model, tokenizer)


def open_model(
    source: Source, dtype: Dtype | None, settings: dict[str, Any]
) -> tuple[Any, set[str]]:
    """Return a model, and the names of the weights in its files that it does not use."""
    with explained(f"model.path: {source.folder} cannot be loaded"), _naming_fields(source.folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=getattr(torch, dtype.value) if dtype else "auto",
            use_safetensors=not source.pickled,
            trust_remote_code=source.remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to name them below
            **settings,
        )
    model, report = loaded
    remove_unknown_fields(model.config)
    model.config.return_dict = True  # its outputs are read by name
    unused = {name for name in report["unexpected_keys"] if not COMPUTED.search(name)}
    unused -= getattr(model, "all_tied_weights_keys", {}).keys()
    layers = {name for name in unused if re.search(r"\.\d+\.", name)}
    problems = {
        "lacks weights that its config.json asks for": report["missing_keys"],
        "has weights of other shapes than its config.json says": [
            f"{name} {list(found)} instead of {list(expected)}"
            for name, found, expected in report["mismatched_keys"]
        ],
        "holds weights of layers that its config.json does not have": layers,
        "holds weights that a model of its config.json does not have": unused,
    }
    for problem, names in problems.items():
        if names:
            raise UserError(
                f"model.path: {source.folder} {problem} ({len(names)}, the first is {min(names)})."
            )
    return model, set(report["unexpected_keys"])


@contextmanager
def _naming_fields(folder: Path) -> Iterator[None]:
    """Name the fields of `config.json` in errors that do not say where they come from."""
    try:
        yield
    except (OSError, ImportError, RuntimeError, SafetensorError, UnpicklingError):
        raise
    except Exception as error:  # each family has its own checks of a configuration
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text = str(error)
        named = " ".join(FIELDS.get(word.lower(), word) for word in re.findall(r"\w+", text))
        fields = [
            f"{name}={value}"
            for name, value in content.items()
            if text == repr(value) or re.search(rf"\b{name}\b", named)
        ]
        raise ValueError(
            f"its config.json ({', '.join(fields[:2]) or 'a value'}): {text}"
        ) from error


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Load the tokenizer in `source`. Raises `UserError` if there is none."""
    files = list(source.folder.glob("*"))
    if files and not any(TOKENIZER.search(file.name) for file in files):
        raise UserError(
            f"model.path: {source.folder} has no tokenizer (tokenizer.json, tokenizer.model, "
            "vocab.json, ...): copy those files from the original model."
        )
    with explained(f"model.path: {source.folder} cannot be loaded"):
        return without_word_cache(
            AutoTokenizer.from_pretrained(source.folder, trust_remote_code=source.remote_code)
        )


def without_word_cache(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Turn off the word cache of a BPE tokenizer, and return the tokenizer.

    tokenizers 0.23 never frees cached words, up to 10,000 in each thread (`BPE_LOCAL_CACHE` of its
    `models/bpe/model.rs`), so a sweep over models would leak memory. Without the cache,
    tokenising 12 MB of text takes 8 s instead of 6 s.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(backend, Tokenizer) and isinstance(backend.model, BPE):
        backend.model._resize_cache(0)
    return tokenizer


def conversation_renderer(source: Source) -> RenderConversation:
    """Return a function that writes a conversation by the model's chat template."""
    tokenizer = load_tokenizer(source)
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"it contains conversations, and {source.name} has no chat template. "
            "Give plain text, or a model with a chat template."
        )

    def render(conversation: Conversation) -> RenderedText:
        turns = [plain_turn(turn) for turn in conversation]
        with explained(f"the chat template of {source.name} refuses it, so change or remove it"):
            return RenderedText(tokenizer.apply_chat_template(turns, tokenize=False))

    return render


def torch_device(name: str) -> torch.device:
    """Return the device of `runtime.device`; `cuda` is this process's GPU, `auto` that if any."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"runtime.device={name}: use auto, cpu, cuda or cuda:NUMBER.") from None
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise UserError(f"runtime.device={name}: no CUDA device is available: use cpu.")
    if device.index is None:
        return torch.device("cuda", processes.local_rank())
    if device.index >= torch.cuda.device_count():
        raise UserError(
            f"runtime.device={name}: there is no such GPU, they are numbered from 0 to "
            f"{torch.cuda.device_count() - 1}."
        )
    return device
