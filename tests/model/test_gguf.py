"""GGUF files: known by all that is in them, and refused if they hold no complete model."""

import hashlib
import re
import shutil

import numpy as np
import pytest
import tiny_gguf
from tiny import byte_tokenizer, tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from layerprune.config.schema import ModelConfig
from layerprune.errors import UserError
from layerprune.model import gguf
from layerprune.model.source import locate

LAYERS = 3


def tensors():
    return tiny_gguf.tensors(layers=LAYERS)


def write(path, content, **options):
    return tiny_gguf.write(path, layers=LAYERS, content=content, **options)


def found(path, tmp_path):
    return locate(ModelConfig(path=str(path)), tmp_path / "cache")


def test_a_file_that_differs_in_its_last_byte_alone_is_another_model(tmp_path, monkeypatch):
    made = []

    def convert(folder, gguf_file, dtype, output_loading_info):
        made.append((folder / gguf_file).read_bytes()[-1])
        model = tiny("llama", vocab_size=259)
        model.config.quantization_config = None
        return model, {"missing_keys": [], "mismatched_keys": []}

    size = tiny("llama", vocab_size=259).num_parameters()
    monkeypatch.setattr(gguf, "_read_header", lambda _: ({"all": size}, None))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", convert)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: byte_tokenizer())
    file = tmp_path / "some.gguf"
    folders = []
    for last in (b"a", b"b", b"a"):
        file.write_bytes(bytes(2 << 20) + last)
        folders.append(found(file, tmp_path).folder)
    assert made == [*b"ab"]
    assert folders[0] == folders[2] != folders[1]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all"])
def test_a_file_that_holds_no_model_is_refused(tmp_path, content):
    (tmp_path / "some.gguf").write_bytes(content)
    with pytest.raises(UserError, match=r"some\.gguf cannot be loaded"):
        found(tmp_path / "some.gguf", tmp_path)
    assert not list((tmp_path / "cache" / "models").glob("*"))


def test_every_weight_is_read(tmp_path):
    source = found(write(tmp_path / "whole.gguf", tensors()), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(source.folder)
    np.testing.assert_array_equal(model.lm_head.weight.detach().numpy(), tensors()["output.weight"])


def half():
    content = tensors()
    return {name: content[name] for name in list(content)[: len(content) // 2]}


@pytest.mark.parametrize(
    ("content", "fields", "reason"),
    [
        (half, {"split.count": 2, "split.no": 0}, "one of 2 files of a split model"),
        (half, {}, "lacks weights of a llama"),
        (tensors, {"general.type": "adapter"}, "its general.type is adapter"),
        (tensors, {"general.type": "mmproj"}, "its general.type is mmproj"),
        (
            lambda: tensors() | {"rope_freqs.weight": np.ones(4, np.float32)},
            {},
            r"perhaps not rope_freqs\.weight",
        ),
    ],
)
def test_a_file_that_is_not_read_as_a_whole_is_refused(tmp_path, content, fields, reason):
    path = write(tmp_path / "part.gguf", content(), fields=fields.items())
    for _ in range(2):  # nor is there a cached half of it
        with pytest.raises(UserError, match=reason):
            found(path, tmp_path)


def test_a_truncated_file_is_refused(tmp_path):
    path = write(tmp_path / "cut.gguf", tensors())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"cut\.gguf cannot be loaded"):
        found(path, tmp_path)


def test_an_unknown_way_of_splitting_text_is_refused_by_name(tmp_path):
    path = write(tmp_path / "new.gguf", tensors(), pre="of-tomorrow")
    with pytest.raises(UserError, match=r"splits text as of-tomorrow \(tokenizer\.ggml\.pre\)"):
        found(path, tmp_path)
    assert not list((tmp_path / "cache" / "models").glob("*"))


def test_digits_are_split_where_the_file_says_so(tmp_path):
    for pre, tokens in (("smollm", [*"ab12"]), ("llama-bpe", ["ab", "12"])):
        folder = found(write(tmp_path / f"{pre}.gguf", tensors(), pre=pre), tmp_path).folder
        backend = AutoTokenizer.from_pretrained(folder).backend_tokenizer
        pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("ab12")]
        assert pieces == (["ab", "1", "2"] if pre == "smollm" else tokens)


@pytest.fixture
def in_packages(tmp_path, monkeypatch):
    """Return the configuration of a file in two packages, the second of which is not installed."""
    content = write(tmp_path / "whole.gguf", tensors()).read_bytes()
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    for part, piece in enumerate((content[:5000], content[5000:]), 1):
        folder = tmp_path / f"package{part}" / f"gguf_part{part}"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('it was imported')")
        (folder / "some.gguf.part").write_bytes(piece)
    (tmp_path / "installed").mkdir()
    (tmp_path / "package1" / "gguf_part1").rename(tmp_path / "installed" / "gguf_part1")
    return ModelConfig(
        path="package:gguf_whole/some.gguf",
        parts=[f"package:gguf_part{part}/some.gguf.part" for part in (1, 2)],
        sha256=hashlib.sha256(content).hexdigest(),
        made_by="make parts",
    )


def test_parts_in_packages_are_joined_once_all_are_installed(in_packages, tmp_path):
    cache = tmp_path / "cache"
    missing = "the package gguf_part2 is not installed. Try `make parts`."
    with pytest.raises(UserError, match=re.escape(missing)):
        locate(in_packages, cache)
    assert not list(cache.glob("models/*"))
    with pytest.raises(UserError, match="has not been joined"):
        locate(in_packages, cache, fetch=False)
    (tmp_path / "package2" / "gguf_part2").rename(tmp_path / "installed" / "gguf_part2")
    source = locate(in_packages, cache)
    assert (source.name, source.num_layers) == ("some.gguf", LAYERS)
    joined = cache / "models" / "some.gguf"
    assert joined.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    shutil.rmtree(tmp_path / "installed")
    assert locate(in_packages, cache) == source


def test_parts_of_another_file_are_refused_by_their_hash(in_packages, tmp_path):
    shutil.copytree(tmp_path / "package2" / "gguf_part2", tmp_path / "installed" / "gguf_part2")
    with (tmp_path / "installed" / "gguf_part2" / "some.gguf.part").open("ab") as part:
        part.write(b"!")
    with pytest.raises(UserError, match=f"model.sha256 is {in_packages.sha256}"):
        locate(in_packages, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "models").glob("some-*"))
