"""Compute a checkpoint's logits and tokens by plain transformers, in a separate process.

python reopen.py FOLDER SETTINGS OUT
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def reopen(folder: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return logits [1, T, V] of `ids`, tokens of `text`, and what loading reports."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, settings["dtype"]),
        device_map=settings["device_map"],
        trust_remote_code=settings["remote_code"],
        output_loading_info=True,
    )
    model, report = loaded
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=settings["remote_code"])
    with torch.inference_mode():
        logits = model.eval()(input_ids=torch.tensor([settings["ids"]]), use_cache=False).logits
    return {
        "logits": logits.float(),
        "tokens": tokenizer(settings["text"])["input_ids"],
        "unread": sorted(str(name) for names in report.values() for name in names),
    }


if __name__ == "__main__":
    arguments, out = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), sys.argv[3]
    torch.set_num_threads(arguments["threads"])
    torch.save(reopen(sys.argv[1], arguments), out)
