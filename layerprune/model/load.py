"""A located model as something that runs: weights, tokenizer, device."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from layerprune import processes
from layerprune.config.schema import DeviceMap, Dtype, Quantization
from layerprune.errors import UserError
from layerprune.model import quantized
from layerprune.model.source import Source
from layerprune.model.spread import Spread, on_disk
from layerprune.model.translated import translated


@dataclass(frozen=True)
class Loaded:
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
) -> Loaded:
    """The model in `source`, in evaluation mode on `device`; in its files' precision if None.

    With `quantization` the weights of its linear layers are held so, and computed with in `dtype`.
    With `device_map` the model is spread over what devices there are, in place of `device`. With
    `stream` its layers stay in the files until they run.

    Raises `UserError` where the files are no causal language model, or lack a weight.
    """
    place = torch_device(device)
    settings: dict[str, Any] = {}
    if quantization and not stream:
        settings |= quantized.arguments(quantization, dtype or Dtype.float32, place)
    spread = Spread() if device_map else None
    if stream:
        spread = Spread(on_disk(_without_weights(source, dtype)[0], place))
    if spread:
        settings |= spread.arguments
    with translated(source.folder, anything=source.own_code):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=getattr(torch, dtype.value) if dtype else "auto",
            use_safetensors=not source.pickled,
            trust_remote_code=source.own_code,
            output_loading_info=True,
            **settings,
        )
        model, report = loaded
        model = model.eval() if settings else model.eval().to(place)
    tokenizer = load_tokenizer(source)
    _check_keys(source, report)
    if quantization and stream:
        quantized.settle_when_read(model, quantization, dtype or Dtype.float32)
    elif quantization:
        quantized.settle(model, quantization)
    if spread:
        spread.belongs_to(model)
    return Loaded(model, tokenizer)


def without_weights(source: Source, dtype: Dtype) -> tuple[PreTrainedModel, set[str]]:
    """The model in `source` on the meta device, and the names in its files that it does not use.

    Raises `UserError` as `load` does.
    """
    model, report = _without_weights(source, dtype)
    _check_keys(source, report)
    return model, set(report["unexpected_keys"])


def _without_weights(source: Source, dtype: Dtype | None) -> tuple[Any, dict[str, Any]]:
    loaded: Any
    with translated(source.folder, anything=source.own_code):
        loaded = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=getattr(torch, dtype.value) if dtype else "auto",
            use_safetensors=not source.pickled,
            trust_remote_code=source.own_code,
            device_map={"": "meta"},
            output_loading_info=True,
        )
    model, report = loaded
    return model, report


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer in `source`. Raises `UserError` where there is none."""
    with translated(source.folder, anything=source.own_code):
        return forgetful(
            AutoTokenizer.from_pretrained(source.folder, trust_remote_code=source.own_code)
        )


def forgetful(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, which keeps no words that it has met, where it would do so for ever.

    tokenizers 0.23 never frees those that a BPE model kept, up to 10,000 in each thread
    (`BPE_LOCAL_CACHE` of its `models/bpe/model.rs`), so a sweep over models would grow. Without
    them text of 12 MB took 8 s to become tokens, not 6.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(backend, Tokenizer) and isinstance(backend.model, BPE):
        backend.model._resize_cache(0)
    return tokenizer


def conversations(source: Source) -> Callable[[list[dict[str, str]]], str]:
    """Writes a conversation in the model's own form. Raises `UserError` if it has none."""
    tokenizer = load_tokenizer(source)
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"data: there are conversations in it, and {source.name} has no chat template. "
            "Give text."
        )

    def render(turns: list[dict[str, str]]) -> str:
        try:
            return str(tokenizer.apply_chat_template(turns, tokenize=False))
        except Exception as error:  # templates are programs, and refuse in their own ways
            reason = " ".join(str(error).split())
            raise UserError(f"data: a conversation cannot be written: {reason}") from error

    return render


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
