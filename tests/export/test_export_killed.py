"""An export that is killed, at any moment, leaves no checkpoint or a whole one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import byte_tokenizer, tiny
from transformers import AutoModelForCausalLM

from layerprune.config.compose import compose
from layerprune.export.checkpoint import export
from layerprune.model.source import locate
from layerprune.run.pipeline import run

MOMENTS = 9
"""With so many files in it an unfinished folder is met; then, that there is a finished one."""

KILLS = """
import contextlib, json, os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path

import torch
torch.set_num_threads(1)
from layerprune.config.compose import compose
from layerprune.export.checkpoint import export
from layerprune.model.source import locate
from layerprune.record.point import Point

source = locate(compose("model=custom", f"model.path={sys.argv[2]}").model, Path(sys.argv[3]))
point = Point.from_json(json.loads(Path(sys.argv[4]).read_text()))


def come(folder, moment):
    if (folder / "model").is_dir():
        return True
    with contextlib.suppress(FileNotFoundError):  # it may have got its name just now
        return any(len(os.listdir(beside)) >= moment for beside in folder.glob(".model-*"))
    return False


for moment, folder in enumerate(map(Path, sys.argv[5:])):
    folder.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        export(source, point, folder)
        signal.pause()
    while not come(folder, moment) and os.waitpid(child, os.WNOHANG) == (0, 0):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@pytest.fixture
def model_folder(tmp_path):
    """Large enough for its files to take a while."""
    folder = tmp_path / "tiny"
    tiny("llama", vocab_size=259, hidden_size=128, intermediate_size=512).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_what_is_left_is_whole_or_plainly_unfinished_and_goes(model_folder, tiny_tasks, tmp_path):
    def settings(*overrides):
        return compose(
            "model=custom", f"model.path={model_folder}", "eval.tasks=[letters]",
            f"eval.include_path={tiny_tasks}",
            "eval.trust_task_code=true", f"runtime.outputs={tmp_path / 'outputs'}",
            "tracker=disabled", "data.sequence_length=32", "data.calibration_sequences=2",
            "data.heldout_sequences=2", "prune.layers=[3,4,5]", *overrides,
        )  # fmt: skip

    (point,) = run(settings())
    study = tmp_path / "outputs" / "default" / "points" / point.key
    source = locate(settings().model, tmp_path)
    whole = export(source, point, tmp_path / "whole")
    weights = load_file(whole / "model.safetensors")
    folders = [study, *(tmp_path / f"killed-{moment}" for moment in range(1, MOMENTS))]
    subprocess.run(
        [sys.executable, "-c", KILLS, Path(__file__).parents[2], model_folder, tmp_path / "cache",
         study / "record.json", *folders],
        check=True, cwd=tmp_path,
    )  # fmt: skip

    interrupted = 0
    for folder in folders:
        remains = files(folder) - {"record.json"}
        interrupted += "model" not in remains
        if "model" in remains:
            assert files(folder / "model") == files(whole)
        else:
            (left,) = remains
            assert left.startswith(".model-unfinished-")
    assert interrupted >= 3

    run(settings("export=hf"))
    for folder in folders[1:]:
        export(source, point, folder)
    ids = torch.arange(40).view(2, 20)
    with torch.inference_mode():
        expected = AutoModelForCausalLM.from_pretrained(whole)(ids).logits
        for folder in folders:
            assert files(folder) - {"record.json"} == {"model"}
            made = load_file(folder / "model" / "model.safetensors")
            assert made.keys() == weights.keys()
            assert all(torch.equal(weights[name], made[name]) for name in made)
            logits = AutoModelForCausalLM.from_pretrained(folder / "model")(ids).logits
            assert torch.equal(logits, expected)
            assert json.loads((folder / "model" / "layerprune.json").read_text())
