"""A model's files: found, told apart, and refused where they are not a model's."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from layerprune.config.compose import compose
from layerprune.config.schema import Dtype, ModelConfig
from layerprune.errors import UserError
from layerprune.model.fingerprint import fingerprint
from layerprune.model.load import load
from layerprune.model.source import MODEL_FILES, locate

pytestmark = pytest.mark.quick


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def test_what_a_folder_says_of_itself(folder, tmp_path):
    source = locate(ModelConfig(path=str(folder)), tmp_path / "cache")
    assert (source.name, source.family, source.num_layers) == ("copy", "llama", 8)
    named = locate(ModelConfig(path=str(folder), name="n", family="f"), tmp_path / "cache")
    assert (named.name, named.family, named.fingerprint) == ("n", "f", source.fingerprint)


def test_one_changed_weight_changes_the_fingerprint(folder, tmp_path):
    before = fingerprint(folder, tmp_path / "memory.json", MODEL_FILES)
    assert fingerprint(folder, tmp_path / "memory.json", MODEL_FILES) == before
    assert fingerprint(folder, tmp_path / "other.json", MODEL_FILES) == before
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.4.mlp.up_proj.weight"][3, 3] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(folder, tmp_path / "memory.json", MODEL_FILES) != before


def test_fingerprint_is_not_read_again_and_survives_a_damaged_memory(folder, tmp_path, monkeypatch):
    memory = tmp_path / "memory.json"
    before = fingerprint(folder, memory, MODEL_FILES)
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", lambda *_: pytest.fail("a file was read again"))
        assert fingerprint(folder, memory, MODEL_FILES) == before
    memory.write_text("{")
    assert fingerprint(folder, memory, MODEL_FILES) == before


def test_a_file_of_the_hubs_cache_is_known_by_its_name(folder, tmp_path):
    blob = tmp_path / ("ab" * 32)
    os.rename(folder / "model.safetensors", blob)
    (folder / "model.safetensors").symlink_to(blob)
    fingerprint(folder, tmp_path / "memory.json", MODEL_FILES)
    assert blob.name in json.loads((tmp_path / "memory.json").read_text()).values()


def broken(folder, what):
    if what == "truncated":
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
    elif what == "pointer":
        (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    else:
        config = json.loads((folder / "config.json").read_text())
        config["num_hidden_layers"] = what
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("truncated", "cannot be loaded"),
        ("pointer", "cannot be loaded"),
        (5, "weights of layers that its config.json does not have"),
        (9, "lacks weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder, tmp_path, what, message):
    broken(folder, what)
    source = locate(ModelConfig(path=str(folder)), tmp_path / "cache")
    with pytest.raises(UserError, match=message):
        load(source, Dtype.float32, "cpu")


def test_dtype_and_device(folder, tmp_path):
    source = locate(ModelConfig(path=str(folder)), tmp_path / "cache")
    assert load(source, Dtype.bfloat16, "cpu").model.dtype is torch.bfloat16
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"runtime\.device=cuda"):
            load(source, Dtype.float32, "cuda")
    with pytest.raises(UserError, match=r"runtime\.device=toaster"):
        load(source, Dtype.float32, "toaster")


@pytest.mark.parametrize("path", ["package:no_such_package/x.gguf", "package:a.b/x", "package:/x",
                                  "package:json/absent.gguf"])  # fmt: skip
def test_packages_that_have_no_model(path, tmp_path):
    with pytest.raises(UserError, match="package"):
        locate(compose("model=custom", f"model.path={path}").model, tmp_path)


@pytest.mark.parametrize("model_type", ["llama", "unheard_of"])
def test_weights_are_fetched_only_of_a_model_that_can_be_cut(
    folder, tmp_path, monkeypatch, model_type
):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": model_type}))
    asked = []

    def download(path, revision, allow_patterns, ignore_patterns, local_files_only):
        asked.append((path, revision, "*.safetensors" in allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    wanted = ModelConfig(path="some/model", revision="main")
    if model_type == "llama":
        source = locate(wanted, tmp_path / "cache")
        assert (source.folder, source.name) == (folder, "model")
        assert asked == [("some/model", "main", False), ("some/model", "main", True)]
    else:
        with pytest.raises(UserError, match="unheard_of: dropping layers has not been verified"):
            locate(wanted, tmp_path / "cache")
        assert asked == [("some/model", "main", False)]


class Runs:
    """What unpickles by running a program."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickled_weights_are_read_where_they_are_asked_for(pickled, tiny_folder, tmp_path):
    with pytest.raises(UserError, match=r"no weights \(\*.safetensors\).*pickled_weights=true"):
        locate(ModelConfig(path=str(pickled)), tmp_path / "cache")
    wanted = ModelConfig(path=str(pickled), pickled_weights=True)
    source = locate(wanted, tmp_path / "cache")
    original = locate(ModelConfig(path=str(tiny_folder), pickled_weights=True), tmp_path / "cache")
    assert (source.pickled, original.pickled) == (True, False)
    found, expected = (load(each, Dtype.float32, "cpu").model for each in (source, original))
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    weights = torch.load(pickled / "pytorch_model.bin")
    weights["model.norm.weight"] += 1
    torch.save(weights, pickled / "pytorch_model.bin")
    assert locate(wanted, tmp_path / "cache").fingerprint != source.fingerprint


def test_pickled_weights_are_data_and_nothing_in_them_runs(pickled, tmp_path):
    weights = torch.load(pickled / "pytorch_model.bin")
    torch.save({**weights, "x": Runs(tmp_path / "made")}, pickled / "pytorch_model.bin")
    source = locate(ModelConfig(path=str(pickled), pickled_weights=True), tmp_path / "cache")
    with pytest.raises(UserError, match="holds code beside weights, and that code is not run"):
        load(source, Dtype.float32, "cpu")
    assert not (tmp_path / "made").exists()


def test_pickled_weights_are_fetched_only_where_there_are_no_others(pickled, tmp_path, monkeypatch):
    asked = []

    def download(path, revision, allow_patterns, ignore_patterns, local_files_only):
        asked.append([name for name in allow_patterns if "safetensors" in name or "bin" in name])
        return str(pickled)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    wanted = ModelConfig(path="some/model", pickled_weights=True)
    assert locate(wanted, tmp_path / "cache").pickled
    (pickled / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="pickled_weights=true"):
        locate(ModelConfig(path="some/model"), tmp_path / "cache")
    assert asked == [
        [], ["*.safetensors"], ["*.safetensors", "pytorch_model*.bin"], [], ["*.safetensors"]
    ]  # fmt: skip
