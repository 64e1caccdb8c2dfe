"""Code that comes with a model runs only where that is asked for, and is not taken at its word."""

import json
import os

import pytest
import torch
from equalities import with_identities
from own_code import NAME, write
from tiny import byte_tokenizer, tiny
from transformers import AutoModelForCausalLM

from layerprune.config.compose import compose
from layerprune.config.schema import Dtype, ModelConfig
from layerprune.errors import UserError
from layerprune.model.load import load
from layerprune.model.source import locate
from layerprune.model.stack import UnsupportedArchitecture
from layerprune.model.surgery import drop_layers, dropped
from layerprune.run.pipeline import run

IDS_BT = torch.randint(3, 250, (2, 21), generator=torch.Generator().manual_seed(7))


def logits(model):
    with torch.inference_mode():
        return model(IDS_BT, use_cache=False).logits


def located(folder, trusted=True):
    wanted = ModelConfig(path=str(folder), trust_remote_code=trusted)
    return locate(wanted, folder.parent / "cache")


def loaded(folder):
    return load(located(folder), Dtype.float32, "cpu").model


def test_it_does_not_run_unless_it_is_trusted(tmp_path, monkeypatch):
    folder = write(tmp_path / "own")
    monkeypatch.delenv("TINY_OWN_CODE_RAN")
    with pytest.raises(UserError, match=r"tiny_own.*model\.trust_remote_code=true to run it"):
        located(folder, trusted=False)
    assert "TINY_OWN_CODE_RAN" not in os.environ
    loaded(folder)
    assert os.environ["TINY_OWN_CODE_RAN"] == "1"


@pytest.mark.parametrize("name", ["qwen_7b", "qwen_14b"])
def test_the_papers_first_qwen_is_refused_by_the_key_that_it_needs(name, tmp_path, monkeypatch):
    def download(path, revision, allow_patterns, ignore_patterns, local_files_only):
        assert allow_patterns == ["config.json"]
        (tmp_path / "config.json").write_text(json.dumps({
            "model_type": "qwen", "num_hidden_layers": 32, "auto_map": {
                "AutoConfig": "configuration_qwen.QWenConfig",
                "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
            },
        }))  # fmt: skip
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(UserError, match=r"Qwen/Qwen-.*model\.trust_remote_code=true"):
        locate(compose(f"model={name}").model, tmp_path / "cache")


def test_a_cut_is_the_model_with_identities_and_loads_again(tmp_path):
    model = loaded(write(tmp_path / "own"))
    before = logits(model)
    expected = logits(with_identities(model, [1, 2, 4]))
    with dropped(model, [1, 2, 4]):
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(logits(model), before)
    cut = drop_layers(model, [1, 2, 4])
    torch.testing.assert_close(logits(cut), expected, atol=1e-5, rtol=1e-5)
    cut.save_pretrained(tmp_path / "cut")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "cut", trust_remote_code=True)
    assert torch.equal(logits(again.eval()), logits(cut))


@pytest.mark.parametrize(
    ("scale", "built", "words"),
    [
        ("1 / (index + 1)", "pass", "without these layers its logits differ"),
        ("self.scale", "self.scale = 1 / (index + 1)", "describe another model: .*scale"),
    ],
)
def test_a_layer_that_depends_on_its_place_is_refused(scale, built, words, tmp_path):
    model = loaded(write(tmp_path / "own", scale=scale, built=built))
    before = logits(model)
    with pytest.raises(UnsupportedArchitecture, match=f"tiny_own: .*{words}"):
        drop_layers(model, [1, 2])
    assert torch.equal(logits(model), before)
    assert len(model.model.layers) == model.config.num_hidden_layers == 6


def test_a_setting_of_every_layer_that_nobody_knows_is_refused(tmp_path):
    model = loaded(write(tmp_path / "own", scales=[1, 1, 1, 1, 2, 2]))
    with pytest.raises(UnsupportedArchitecture, match="scales has as many entries as there are"):
        drop_layers(model, [1])


def test_a_cut_is_tried_once(tmp_path, monkeypatch):
    model = loaded(write(tmp_path / "own"))
    runs = []
    model.register_forward_hook(lambda *_: runs.append(1))
    for layers in ([1], [1], [2]):
        with dropped(model, layers):
            pass
    assert len(runs) == 4
    assert len(model._checked_cuts) == 2


def test_a_run_asks_it_and_keeps_it_with_its_code(tmp_path, tiny_tasks):
    folder = write(tmp_path / "own")
    points = run(compose(
        "model=custom", f"model.path={folder}", "model.trust_remote_code=true",
        "eval.tasks=[letters]", f"eval.include_path={tiny_tasks}",
        "eval.trust_task_code=true", "tracker=disabled",
        f"runtime.outputs={tmp_path / 'outputs'}", "data.sequence_length=32",
        "data.calibration_sequences=8", "data.heldout_sequences=4", "prune.fraction=[0,0.34,0.5]",
        "export=hf",
    ))  # fmt: skip
    assert [point.num_dropped for point in points] == [0, 2, 3]
    kept = tmp_path / "outputs" / "default" / "points" / points[1].key / "model"
    again = AutoModelForCausalLM.from_pretrained(kept, trust_remote_code=True)
    whole = loaded(folder)
    expected = logits(with_identities(whole, points[1].plan.dropped))
    torch.testing.assert_close(logits(again.eval()), expected, atol=1e-5, rtol=1e-5)


def test_code_is_part_of_what_a_model_is(tmp_path):
    folder = write(tmp_path / "own")
    before = located(folder).fingerprint
    with (folder / f"{NAME}.py").open("a") as code:
        code.write("# another line\n")
    assert located(folder).fingerprint != before


def test_code_from_elsewhere_is_refused(tmp_path):
    folder = write(tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModelForCausalLM"] = f"some/other--{NAME}.TinyOwnForCausalLM"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"in another repository \(some/other--"):
        located(folder)


def test_code_is_fetched_of_the_revision_that_is_asked_for(tmp_path, monkeypatch):
    folder, asked = write(tmp_path / "own"), []

    def download(path, revision, allow_patterns, ignore_patterns, local_files_only):
        asked.append((revision, "*.py" in allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    wanted = ModelConfig(path="some/model", revision="abc", trust_remote_code=True)
    assert locate(wanted, tmp_path / "cache").remote_code
    assert asked == [("abc", False), ("abc", True)]


@pytest.mark.parametrize("trusted", [False, True])
def test_a_type_of_transformers_never_runs_code_of_its_files(trusted, tmp_path):
    folder = tmp_path / "llama"
    tiny("llama", vocab_size=259).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "x.Config", "AutoModelForCausalLM": "x.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "x.py").write_text("raise AssertionError('it was run')\n")
    source = located(folder, trusted)
    assert not source.remote_code
    model = load(source, Dtype.float32, "cpu").model
    assert type(model).__name__ == "LlamaForCausalLM"
