"""Compute a GGUF file's logits by transformers, in a separate process.

python -m layerprune.export.reopen_gguf FILE SETTINGS OUT
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from layerprune.model.gguf_reader import fast_headers


def reopen_gguf(file: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return logits [1, T, V] of `ids`, the kinds of layers, and the weights that are missing.

    The configuration is the file's own, or the one in the folder `config`.
    """
    folder, name = Path(file).parent, Path(file).name
    given = {}
    if settings["config"] is not None:
        given["config"] = AutoConfig.from_pretrained(settings["config"])
    with fast_headers():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=name,
            dtype=getattr(torch, settings["dtype"]),
            output_loading_info=True,
            **given,
        )
    model, report = loaded
    with torch.inference_mode():
        logits = model.eval()(input_ids=torch.tensor([settings["ids"]]), use_cache=False).logits
    missing = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    kinds = getattr(model.config, "layer_types", None)
    return {"logits": logits.float(), "layer_types": kinds, "missing": missing}


if __name__ == "__main__":
    arguments, out = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), sys.argv[3]
    torch.set_num_threads(arguments["threads"])
    torch.save(reopen_gguf(sys.argv[1], arguments), out)
