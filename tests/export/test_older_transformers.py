"""A checkpoint of a model that transformers 4 wrote is read by transformers 4 as it was measured.

The older version lives in a separate folder: `OLDER_TRANSFORMERS`, or one that pip fills; without
either the test is skipped.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from export.test_same_model import GONE, edit, exported
from export.test_same_model import folder as folder
from export.test_same_model import point as point
from transformers import AutoModelForCausalLM

from layerprune.model.surgery import drop_layers

pytestmark = pytest.mark.slow

PACKAGES = ("transformers==4.57.3", "tokenizers==0.22.1", "huggingface-hub==0.36.0")
FOLDER = Path(__file__).parents[2] / "outputs" / "cache" / "transformers-4.57"
PROGRAM = """
import json, sys, torch, transformers
assert transformers.__version__.startswith("4.57."), transformers.__version__
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
logits = model.eval()(torch.arange(3, 43).view(2, 20)).logits
torch.save((logits, tokenizer("Some text, 1 2")["input_ids"], model.config.rope_theta), sys.argv[2])
"""


@pytest.fixture(scope="module")
def older():
    """The folder with transformers 4.57."""
    if given := os.environ.get("OLDER_TRANSFORMERS"):
        return Path(given)
    if not (FOLDER / "transformers").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--retries", "0"]
        done = subprocess.run([*pip, "--target", FOLDER, *PACKAGES], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"transformers 4.57 cannot be installed: {done.stderr.strip()[-200:]}")
    return FOLDER


def test_transformers_4_computes_what_was_measured(older, folder, point, tmp_path):
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}  # fmt: skip
    edit(folder / "config.json", "rope_parameters", "dtype", rope_theta=5e5, rope_scaling=rope,
         torch_dtype="float32", transformers_version="4.57.3")  # fmt: skip
    edit(folder / "tokenizer_config.json", "backend", tokenizer_class="PreTrainedTokenizerFast")
    made = exported(folder, point, tmp_path)
    out = tmp_path / "out.pt"
    subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, str(made), str(out)],
        check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(older)},
    )  # fmt: skip
    logits, tokens, theta = torch.load(out)
    cut = drop_layers(AutoModelForCausalLM.from_pretrained(folder), GONE).eval()
    with torch.no_grad():
        expected = cut(torch.arange(3, 43).view(2, 20)).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert theta == json.loads((folder / "config.json").read_text())["rope_theta"] == 5e5
    assert tokens == [int(token) for token in tokens]
