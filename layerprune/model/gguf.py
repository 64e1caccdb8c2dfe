"""A GGUF file as a folder that transformers loads in a second: converted once, kept in the cache.

Reading GGUF takes about twenty seconds for 135 M parameters, since every tensor is de-quantised;
the safetensors copy takes one.
"""

from pathlib import Path

from layerprune.errors import UserError
from layerprune.files import creating_folder
from layerprune.model.fingerprint import contents
from layerprune.model.translated import translated
from layerprune.progress import bar


def converted(gguf: Path, folder: Path, memory: Path, make: bool = True) -> Path:
    """A folder in `folder` with the float32 model, tokenizer and configuration of a GGUF file.

    It is known by all that is in the file; `memory` is that of `fingerprint.contents`. Raises
    `UserError` if it is not there and is not to be made, and for a file that holds no such model.
    """
    (content,) = contents([gguf], memory)
    folder = folder / f"{gguf.name.removesuffix('.gguf')}-{content[:12]}"
    if folder.is_dir():
        return folder
    if not make:
        raise UserError(f"{gguf} has not been converted yet.")

    with bar(f"convert {gguf.name} (once)", total=3) as advance:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        advance(1)
        with translated(gguf, anything=True):
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
