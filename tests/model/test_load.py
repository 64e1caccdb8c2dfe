"""What a loaded model leaves when it is gone."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny import tiny

from layerprune.config.schema import DeviceMap, ModelConfig, Quantization
from layerprune.model import load as loading
from layerprune.model.offload import OffloadPlan
from layerprune.model.source import locate

PROGRAM = """
import json, random, sys
from pathlib import Path
from string import ascii_lowercase
import psutil
from layerprune.config.schema import ModelConfig
from layerprune.model import load
from layerprune.model.source import locate

if sys.argv[3] == "as it comes":
    load.without_word_cache = lambda tokenizer: tokenizer
source = locate(ModelConfig(path=sys.argv[1]), Path(sys.argv[2]))
draw = random.Random(0)
seen = []
for _ in range(4):
    tokenizer = load.load_tokenizer(source)
    # All letters, or they would be taken apart: each is a word, and short enough to be kept.
    words = ["".join(draw.choices(ascii_lowercase, k=200)) for _ in range(2500)]
    ids = [tokenizer(word)["input_ids"] for word in words]
    seen.append(psutil.Process().memory_info().rss)
print(json.dumps([seen, ids[0]]))
"""


def grown(folder, cache, how):
    """By how many MiB a process grew with the last two of four tokenizers, and what one said."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(cache), how],
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    seen, ids = json.loads(done.stdout)
    return (seen[-1] - seen[1]) / 2**20, ids


@pytest.mark.slow
def test_a_tokenizer_that_is_gone_leaves_no_words(tiny_folder, tmp_path):
    mine, ids = grown(tiny_folder, tmp_path, "forgetful")
    theirs, expected = grown(tiny_folder, tmp_path, "as it comes")
    assert ids == expected
    assert mine < theirs / 4


@pytest.mark.parametrize(
    ("device", "more", "device_map"),
    [
        ("cpu", {}, {"": torch.device("cpu")}),
        ("cuda:1", {}, {"": torch.device("cuda:1")}),
        ("cuda:1", {"quantization": Quantization.nf4}, {"": torch.device("cuda:1")}),
        ("cuda:1", {"device_map": DeviceMap.auto}, "auto"),
    ],
)
def test_weights_are_loaded_where_they_run(
    tiny_folder, tmp_path, monkeypatch, device, more, device_map
):
    given = []
    monkeypatch.setattr(loading, "torch_device", torch.device)
    monkeypatch.setattr(loading.quantized, "check_quantized", lambda *_: None)
    monkeypatch.setattr(OffloadPlan, "attach_to", lambda *_: None)
    monkeypatch.setattr(
        loading, "open_model", lambda *of: given.append(of[2]) or (tiny("llama"), set())
    )
    source = locate(ModelConfig(path=str(tiny_folder)), tmp_path)
    loaded = loading.load(source, None, device, **more)
    assert given[0].get("device_map") == device_map
    assert not loaded.model.training
    assert loaded.model.device.type == "cpu"  # transformers placed it, nothing moved it
