"""What is exported is what was measured, whatever the source's files say of themselves."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import byte_tokenizer, tiny
from transformers import AutoModelForCausalLM

from layerprune.config.compose import compose
from layerprune.config.schema import ExportConfig, ModelConfig
from layerprune.errors import UserError
from layerprune.export import checkpoint
from layerprune.export.checkpoint import export
from layerprune.model.source import locate
from layerprune.model.surgery import drop_layers
from layerprune.run.pipeline import run

pytestmark = pytest.mark.slow

GONE = [3, 4, 5]
IDS = torch.arange(3, 43).view(2, 20)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "whole"
    tiny("llama", vocab_size=259).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def edit(path, *gone, **changes):
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: content[name] for name in content if name not in gone}))


@pytest.fixture
def point(tiny_folder, tiny_tasks, tmp_path):
    """A point without layers 3 to 5; exports of other models of its size stand on it."""
    (made,) = run(compose(
        "model=custom", f"model.path={tiny_folder}", "eval.tasks=[letters]",
        f"eval.include_path={tiny_tasks}", "eval.trust_task_code=true", "eval.limit=1",
        f"runtime.outputs={tmp_path / 'outputs'}", "tracker=disabled", "data.sequence_length=32",
        "data.calibration_sequences=2", "data.heldout_sequences=2", f"prune.layers={GONE}",
    ))  # fmt: skip
    return made


def exported(folder, point, tmp_path, **options):
    source = locate(ModelConfig(path=str(folder)), tmp_path / "cache")
    return export(source, point, tmp_path / "point", **options)


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def assert_measured(folder, made):
    """Plain transformers computes what the source does without the layers."""
    cut = drop_layers(AutoModelForCausalLM.from_pretrained(folder), GONE)
    model, report = AutoModelForCausalLM.from_pretrained(made, output_loading_info=True)
    assert not any(report.values()), report
    torch.testing.assert_close(logits(model), logits(cut), atol=1e-5, rtol=1e-5)
    return json.loads((made / "config.json").read_text())


def test_a_head_that_differs_in_spite_of_its_flag_is_kept(folder, point, tmp_path):
    edit(folder / "config.json", tie_word_embeddings=True)
    config = assert_measured(folder, exported(folder, point, tmp_path))
    assert config["tie_word_embeddings"] is False  # other programs trust it


def test_a_head_that_is_the_embeddings_again_is_left_out(folder, point, tmp_path):
    edit(folder / "config.json", tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    made = exported(folder, point, tmp_path)
    assert assert_measured(folder, made)["tie_word_embeddings"] is True
    assert "lm_head.weight" not in load_file(made / "model.safetensors")


def test_code_that_is_not_exported_is_not_named(folder, point, tmp_path):
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Own"})
    made = exported(folder, point, tmp_path)
    assert "auto_map" not in assert_measured(folder, made)


def test_files_of_transformers_4_stay_in_its_form(folder, point, tmp_path):
    rope = {"rope_type": "linear", "factor": 2.0}
    edit(folder / "config.json", "rope_parameters", "dtype", rope_theta=5e5, rope_scaling=rope,
         torch_dtype="float32", transformers_version="4.57.3")  # fmt: skip
    edit(folder / "tokenizer_config.json", "backend", tokenizer_class="PreTrainedTokenizerFast")
    made = exported(folder, point, tmp_path)
    config = assert_measured(folder, made)
    own = json.loads((folder / "config.json").read_text())
    assert config == {**own, "num_hidden_layers": 5}
    tokenizer = json.loads((made / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"is_local", "local_files_only"} & tokenizer.keys()
    assert "in the form of transformers 4.57.3" in (made / "README.md").read_text()


def test_scales_of_eight_bits_keep_their_description(point, tmp_path):
    folder = tmp_path / "fp8"
    sizes = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 32}
    model = tiny("qwen3", vocab_size=259, **sizes).to(torch.bfloat16)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    content = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        content[name] = weight
        if name.endswith("_proj.weight") and not any(size % 128 for size in weight.shape):
            scale = weight.float().abs().amax() / 448
            content[name] = (weight.float() / scale).to(torch.float8_e4m3fn)
            content[f"{name}_scale_inv"] = scale.view(1, 1)
    save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
    others = [name.removesuffix(".weight") for name, weight in content.items()
              if name.endswith("_proj.weight") and weight.dtype != torch.float8_e4m3fn]  # fmt: skip
    scales = {"quant_method": "fp8", "activation_scheme": "dynamic",
              "weight_block_size": [128, 128], "modules_to_not_convert": others}  # fmt: skip
    edit(folder / "config.json", quantization_config=scales)
    point.identity["model"]["dtype"] = "bfloat16"
    made = exported(folder, point, tmp_path)
    assert json.loads((made / "config.json").read_text())["quantization_config"] == scales
    with pytest.raises(UserError, match=r"quantised \(fp8\)"):
        exported(folder, point, tmp_path, form=ExportConfig(format="hf", dtype="bfloat16"))


def test_another_model_than_the_measured_one_leaves_no_folder(folder, point, tmp_path, monkeypatch):
    copy = checkpoint.copy_without_layers

    def copy_another(source, layers, beside, *others):
        copied = copy(source, layers, beside, *others)
        weights = load_file(beside / "model.safetensors")
        weights["lm_head.weight"] *= 1.5
        save_file(weights, beside / "model.safetensors", metadata={"format": "pt"})
        return copied

    monkeypatch.setattr(checkpoint, "copy_without_layers", copy_another)
    with pytest.raises(UserError, match=r"50\.0% off the measured"):
        exported(folder, point, tmp_path)
    assert list((tmp_path / "point").iterdir()) == []


def test_another_tokenizer_than_the_measured_one_leaves_no_folder(
    folder, point, tmp_path, monkeypatch
):
    def copy_another(_source, beside):
        tokenizer = byte_tokenizer()
        tokenizer.add_tokens(["year"])
        tokenizer.save_pretrained(beside)

    monkeypatch.setattr(checkpoint, "_copy_tokenizer", copy_another)
    with pytest.raises(UserError, match="other tokens than the measured"):
        exported(folder, point, tmp_path)
    assert list((tmp_path / "point").iterdir()) == []
