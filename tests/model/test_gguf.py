"""GGUF files: known by all that is in them, and refused if they hold no complete model."""

import hashlib
import re
import shutil

import numpy as np
import pytest
from gguf import GGUFWriter
from tiny import byte_tokenizer, tiny
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from layerprune.config.schema import ModelConfig
from layerprune.errors import UserError
from layerprune.model import gguf
from layerprune.model.source import locate

LAYERS, HIDDEN, INNER, VOCABULARY = 3, 16, 32, 259


def tensors():
    draw = np.random.default_rng(0)

    def random(*shape):
        return (draw.standard_normal(shape) * 0.1).astype(np.float32)

    one = np.ones(HIDDEN, np.float32)
    made = {"token_embd.weight": random(VOCABULARY, HIDDEN), "output_norm.weight": one,
            "output.weight": random(VOCABULARY, HIDDEN)}  # fmt: skip
    for layer in range(LAYERS):
        square, wide = (HIDDEN, HIDDEN), (INNER, HIDDEN)
        shapes = {"attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square,
                  "ffn_gate": wide, "ffn_up": wide, "ffn_down": wide[::-1]}  # fmt: skip
        made |= {f"blk.{layer}.{name}.weight": random(*shape) for name, shape in shapes.items()}
        made |= {f"blk.{layer}.{name}.weight": one for name in ("attn_norm", "ffn_norm")}
    return made


def write(path, content, pre="gpt-2", **fields):
    """Write a llama as llama.cpp's converter does, with a vocabulary of bytes."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // 2)
    writer.add_vocab_size(VOCABULARY)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*sorted(pre_tokenizers.ByteLevel.alphabet()), "<bos>", "<eos>", "ab"])
    writer.add_token_types([1] * 256 + [3, 3, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    for name, value in fields.items():
        key = name.replace("_", ".")
        (writer.add_string if isinstance(value, str) else writer.add_uint16)(key, value)
    for name, tensor in content.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


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
        (half, {"split_count": 2, "split_no": 0}, "one of 2 files of a split model"),
        (half, {}, "lacks weights of a llama"),
        (tensors, {"general_type": "adapter"}, "its general.type is adapter"),
        (tensors, {"general_type": "mmproj"}, "its general.type is mmproj"),
        (
            lambda: tensors() | {"rope_freqs.weight": np.ones(4, np.float32)},
            {},
            r"perhaps not rope_freqs\.weight",
        ),
    ],
)
def test_a_file_that_is_not_read_as_a_whole_is_refused(tmp_path, content, fields, reason):
    path = write(tmp_path / "part.gguf", content(), **fields)
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
