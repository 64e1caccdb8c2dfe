"""Compute a GGUF file's next tokens by llama.cpp, in a separate process: it may abort.

python -m layerprune.export.ask_llama_cpp FILE SETTINGS OUT
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import xllamacpp

SPARE_TOKENS = 8


def next_tokens(file: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the `count` likeliest next tokens after `prefixes`, and their log-probabilities.

    Both have shape [P, K], for the prefixes whose indices are `answered`: llama.cpp gives no
    probabilities if the likeliest token is a part of a character.
    """
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx = max(map(len, settings["prefixes"])) + SPARE_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.n_gpu_layers = 0
    params.cache_ram_mib = 0
    params.warmup = False
    server = xllamacpp.Server(params)
    answered, tokens, logprobs = [], [], []
    for index, ids in enumerate(settings["prefixes"]):
        answer = server.handle_completions(
            {
                "prompt": ids,
                "max_tokens": 1,
                "temperature": 0,
                "ignore_eos": True,
                "n_probs": settings["count"],
                "cache_prompt": False,
            }
        )
        if "choices" not in answer:
            raise RuntimeError(str(answer))
        if answer["choices"][0]["logprobs"] is None:
            continue
        likeliest = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        answered.append(index)
        tokens.append([entry["id"] for entry in likeliest])
        logprobs.append([entry["logprob"] for entry in likeliest])
    return {
        "answered": answered,
        "tokens": torch.tensor(tokens),
        "logprobs": torch.tensor(logprobs),
    }


if __name__ == "__main__":
    arguments = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    torch.save(next_tokens(sys.argv[1], arguments), sys.argv[3])
