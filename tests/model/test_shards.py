"""A checkpoint copied from file to file is the one that is written from memory."""

import json
import subprocess
import sys

import pytest
import torch
from families import TINY
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import byte_tokenizer, tiny
from transformers import AutoModelForCausalLM

from layerprune.config.schema import Dtype, ModelConfig
from layerprune.errors import UserError
from layerprune.model import shards
from layerprune.model.load import load
from layerprune.model.shards import copy_without_layers
from layerprune.model.source import locate
from layerprune.model.stack import UnsupportedArchitecture
from layerprune.model.surgery import drop_layers
from layerprune.model.weight_files import read_header, weights_dtype

GONE = [2, 3, 6]


def located(tmp_path, model, **saving):
    folder = tmp_path / "whole"
    model.save_pretrained(folder, **saving)
    byte_tokenizer().save_pretrained(folder)
    return locate(ModelConfig(path=str(folder)), tmp_path)


def from_memory(source, folder, gone, dtype=None):
    """What is written by a model that was opened whole."""
    model = drop_layers(load(source, weights_dtype(source.folder), "cpu").model, gone)
    if dtype is not None:
        model = model.to(dtype)
    model.save_pretrained(folder)
    return folder


def copied(source, folder, gone, dtype=None, shard=10**9):
    folder.mkdir()
    assert copy_without_layers(source, gone, folder, dtype, shard)
    return folder


def tensors(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def assert_same(one, other):
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name
    for name in ("config.json", "generation_config.json"):
        assert (one / name).is_file() == (other / name).is_file()
        if (one / name).is_file():
            assert json.loads((one / name).read_text()) == json.loads((other / name).read_text())


@pytest.mark.parametrize("family", sorted(TINY))
def test_every_family_is_written_as_from_memory(tmp_path, family):
    source = located(tmp_path, tiny(family))
    gone = GONE
    try:
        theirs = from_memory(source, tmp_path / "theirs", gone)
    except UnsupportedArchitecture:  # layers that this family cannot lose
        gone = [0, 1, 2, 3]
        theirs = from_memory(source, tmp_path / "theirs", gone)
    assert_same(copied(source, tmp_path / "ours", gone), theirs)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_other_numbers_and_several_files(tmp_path, family):
    source = located(tmp_path, tiny(family), max_shard_size="100KB")
    assert len(list(source.folder.glob("*.safetensors"))) > 1
    theirs = from_memory(source, tmp_path / "theirs", GONE, torch.bfloat16)
    ours = copied(source, tmp_path / "ours", GONE, Dtype.bfloat16, shard=40_000)
    assert_same(ours, theirs)
    files = list(ours.glob("*.safetensors"))
    assert len(files) > 1
    listed = json.loads((ours / "model.safetensors.index.json").read_text())["weight_map"]
    assert listed.keys() == tensors(ours).keys()
    for file in files:
        with safe_open(file, "pt") as content:
            assert all(listed[name] == file.name for name in content.keys())  # noqa: SIM118
    _, report = AutoModelForCausalLM.from_pretrained(ours, output_loading_info=True)
    assert not any(report.values())


def test_what_the_model_does_not_use_stays_behind(tmp_path):
    source = located(tmp_path, tiny("gpt2"))
    path = source.folder / "model.safetensors"
    content = load_file(path)
    content["lm_head.weight"] = content["transformer.wte.weight"].clone()  # tied: the same again
    content["transformer.wpe.position_ids"] = torch.zeros(3)  # computed by the model itself
    save_file(content, path, metadata={"format": "pt"})
    theirs = from_memory(source, tmp_path / "theirs", GONE)
    ours = copied(source, tmp_path / "ours", GONE)
    assert_same(ours, theirs)
    assert not {"lm_head.weight", "transformer.wpe.position_ids"} & tensors(ours).keys()


def test_files_that_lie_beside_the_weights_are_no_part_of_them(tmp_path):
    source = located(tmp_path, tiny("llama"), max_shard_size="100KB")
    theirs = from_memory(source, tmp_path / "theirs", GONE)
    wrong = {"model.norm.weight": torch.full((32,), 7.0), "other": torch.ones(1)}
    save_file(wrong, source.folder / "consolidated.safetensors", metadata={"format": "pt"})
    assert_same(copied(source, tmp_path / "ours", GONE), theirs)


def test_numbers_of_several_kinds_become_those_of_most(tmp_path):
    source = located(tmp_path, tiny("llama"))
    path = source.folder / "model.safetensors"
    content = {
        name: tensor.half() if name.endswith("norm.weight") else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(content, path, metadata={"format": "pt"})
    theirs = from_memory(source, tmp_path / "theirs", GONE)
    assert_same(copied(source, tmp_path / "ours", GONE), theirs)


def test_few_bytes_are_in_memory_at_once(tmp_path, monkeypatch):
    source = located(tmp_path, tiny("llama"))
    monkeypatch.setattr(shards, "CHUNK_BYTES", 1000)
    read = []
    real = shards._converted
    monkeypatch.setattr(
        shards, "_converted", lambda part, copy: read.append(len(part)) or real(part, copy)
    )
    ours = copied(source, tmp_path / "ours", GONE, Dtype.float16)
    assert max(read) == 1000 < sum(read)
    assert_same(ours, from_memory(source, tmp_path / "theirs", GONE, torch.float16))


def test_what_names_do_not_tell_apart_is_not_copied(tmp_path, monkeypatch):
    source = located(tmp_path, tiny("llama"))
    path = source.folder / "model.safetensors"
    # Another list of as many layers under a name that fits.
    content = load_file(path)
    content |= {f"other.model.layers.{at}.weight": torch.zeros(2) for at in range(8)}
    save_file(content, path, metadata={"format": "pt"})
    out = tmp_path / "ours"
    out.mkdir()
    with pytest.raises(UserError, match="layers that its config"):
        copy_without_layers(source, GONE, out, None, 10**9)
    monkeypatch.setattr(shards, "open_model", lambda *_: (tiny("llama"), set()))
    assert not copy_without_layers(source, GONE, out, None, 10**9)
    assert list(out.iterdir()) == []


def test_what_cannot_be_opened_again_is_not_left(tmp_path, monkeypatch):
    source = located(tmp_path, tiny("llama"))
    monkeypatch.setattr(shards, "write_config", lambda *_: (tmp_path / "ours" / "x").touch())
    monkeypatch.setattr(shards, "_opens", lambda *_: False)
    out = tmp_path / "ours"
    out.mkdir()
    assert not copy_without_layers(source, GONE, out, None, 10**9)
    assert list(out.iterdir()) == []


def test_a_file_that_ends_too_early_is_named(tmp_path):
    source = located(tmp_path, tiny("llama"))
    out = tmp_path / "ours"
    out.mkdir()
    path = source.folder / "model.safetensors"
    header, start = read_header(path)
    first = min(header.values(), key=lambda tensor: tensor["data_offsets"])
    broken = shards.TensorCopy(
        path, start + first["data_offsets"][1], path.stat().st_size, (2,), "F32", "F32"
    )
    with pytest.raises(UserError, match="is truncated"):
        shards._write_shard({"x": broken}, out / "model.safetensors")


PEAK = """
import re, sys
from pathlib import Path
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from layerprune.model.shards import TensorCopy, _write_shard
from layerprune.model.weight_files import read_header

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

source, target, way = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
before = peak()
if way == "chunks":
    header, start = read_header(source)
    _write_shard({
        name: TensorCopy(source, start + tensor["data_offsets"][0],
                         tensor["data_offsets"][1] - tensor["data_offsets"][0],
                         tuple(tensor["shape"]), tensor["dtype"], "BF16")
        for name, tensor in header.items()
    }, target)
else:
    with safe_open(source, "pt") as file:
        converted = {name: file.get_tensor(name).bfloat16() for name in file.keys()}
    save_file(converted, target, {"format": "pt"})
print(peak() - before)
"""


@pytest.mark.slow
def test_a_shard_takes_less_memory_than_by_safetensors_own_writer(tmp_path):
    """Writing a shard of 256 MiB, converted to bfloat16, is why there is a writer of our own."""
    source = tmp_path / "source.safetensors"
    save_file({f"w{n}": torch.randn(2048, 4096) for n in range(8)}, source, {"format": "pt"})
    peaks, written = {}, {}
    for way in ("chunks", "save_file"):
        target = tmp_path / f"{way}.safetensors"
        command = [sys.executable, "-c", PEAK, str(source), str(target), way]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[way], written[way] = float(done.stdout), load_file(target)
    assert peaks["chunks"] < 100 < 128 < peaks["save_file"], "MiB: chunks of 16, and all weights"
    for name, tensor in written["save_file"].items():
        assert torch.equal(written["chunks"][name], tensor)
