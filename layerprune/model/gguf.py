"""Convert a GGUF file, once, into a folder in the cache that transformers loads fast."""

import math
from pathlib import Path
from typing import Any

from layerprune.errors import UserError, explained
from layerprune.model.fingerprint import content_hashes
from layerprune.model.pretokenizers import set_pre_tokenizer
from layerprune.runtime.atomic_files import creating_folder
from layerprune.runtime.progress import progress_bar

CONVERSION = 2
"""Goes up when the same file becomes another model or tokenizer than before."""


def convert_gguf(gguf: Path, cache: Path, hashes: Path, convert: bool = True) -> Path:
    """Return a folder in `cache` with the float32 model, tokenizer and configuration of a file.

    Its name contains the hash of the file; `hashes` is the memo of `content_hashes`. Raises
    `UserError` if it is not there and `convert` is False, and for a file that holds no such model.
    """
    (content,) = content_hashes([gguf], hashes)
    folder = cache / f"{gguf.name.removesuffix('.gguf')}-{content[:12]}-{CONVERSION}"
    if folder.is_dir():
        return folder
    if not convert:
        raise UserError(f"{gguf} has not been converted yet.")

    with progress_bar(f"convert {gguf.name} (once)", total=3) as advance:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from layerprune.model.gguf_reader import fast_headers

        advance(1)
        with explained(f"model.path: {gguf} cannot be loaded"), fast_headers():
            sizes, splits = _read_header(gguf)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model, report = loaded
        _check_read(gguf, model, report, sizes)
        if splits is not None and not set_pre_tokenizer(tokenizer, splits):
            raise UserError(
                f"model.path: {gguf} splits text as {splits} (tokenizer.ggml.pre), which is not "
                "known here. Use the model's original files (safetensors)."
            )
        advance(1)
        # The weights are plain float32 now, but transformers refuses to save a model marked so.
        del model.config.quantization_config
        for mark in ("hf_quantizer", "is_quantized"):
            setattr(model, mark, None)
        model.config.name_or_path = gguf.name
        with creating_folder(folder) as beside:
            model.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
        advance(1)
    return folder


def _read_header(gguf: Path) -> tuple[dict[str, int], str | None]:
    """Return the number of elements of each tensor, and how text is split before byte-level BPE.

    The latter is None for other tokenizers. Raises `UserError` for a part of a model.
    """
    from layerprune.model.gguf_reader import FastGGUFReader, field_value, refuse_incomplete

    reader = FastGGUFReader(gguf)
    refuse_incomplete(reader, gguf, "model.path")
    byte_level = field_value(reader, "tokenizer.ggml.model", "") == "gpt2"
    return (
        {tensor.name: math.prod(map(int, tensor.shape)) for tensor in reader.tensors},
        field_value(reader, "tokenizer.ggml.pre", "default") if byte_level else None,
    )


def _check_read(gguf: Path, model: Any, report: dict[str, Any], sizes: dict[str, int]) -> None:
    """Raise `UserError` if a weight was made up, or a tensor was not read."""
    missing = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if missing:
        raise UserError(
            f"model.path: {gguf} lacks weights of a {model.config.model_type} "
            f"({len(missing)}, the first is {missing[0]})."
        )
    if model.num_parameters() != sum(sizes.values()):
        # transformers does not say which ones: all but those that every model has are likely.
        usual = ("blk.", "token_embd.", "output.", "output_norm.")
        others = [name for name in sizes if not name.startswith(usual)]
        raise UserError(
            f"model.path: {gguf} holds {sum(sizes.values()):,} weights, and transformers reads "
            f"{model.num_parameters():,} of them as a {model.config.model_type} "
            f"(perhaps not {', '.join(others[:3]) or 'some within its layers'})."
        )
