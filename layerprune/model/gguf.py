"""A GGUF file as a folder that transformers loads in a second: converted once, kept in the cache.

Reading GGUF takes about twenty seconds for 135 M parameters, since every tensor is de-quantised;
the safetensors copy takes one.
"""

import hashlib
from pathlib import Path

from layerprune.errors import UserError
from layerprune.files import creating_folder
from layerprune.progress import bar


def converted(gguf: Path, cache: Path, make: bool = True) -> Path:
    """A folder in `cache` with the float32 model, tokenizer and configuration of a GGUF file.

    Raises `UserError` if it is not there and is not to be made.
    """
    size = gguf.stat().st_size
    with gguf.open("rb") as content:
        start = content.read(1 << 20)
    digest = hashlib.sha256(start + str(size).encode()).hexdigest()[:12]
    folder = cache / f"{gguf.name.removesuffix('.gguf')}-{digest}"
    if folder.is_dir():
        return folder
    if not make:
        raise UserError(f"{gguf} has not been converted yet.")

    with bar(f"convert {gguf.name} (once)", total=3) as advance:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        advance(1)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        advance(1)
        # The weights are plain float32 now; with these marks left on, saving is refused.
        del model.config.quantization_config
        for mark in ("hf_quantizer", "is_quantized"):
            setattr(model, mark, None)
        model.config.name_or_path = gguf.name
        with creating_folder(folder) as beside:
            model.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
        advance(1)
    return folder
