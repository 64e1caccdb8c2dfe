"""GGUF files: known by all that is in them, and refused in a line where they hold no model."""

import pytest
from tiny import byte_tokenizer, tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from layerprune.config.schema import ModelConfig
from layerprune.errors import UserError
from layerprune.model.source import locate


def test_a_file_that_differs_in_its_last_byte_alone_is_another_model(tmp_path, monkeypatch):
    made = []

    def convert(folder, gguf_file, dtype):
        made.append((folder / gguf_file).read_bytes()[-1])
        model = tiny("llama", vocab_size=259)
        model.config.quantization_config = None
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", convert)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: byte_tokenizer())
    file = tmp_path / "some.gguf"
    folders = []
    for last in (b"a", b"b", b"a"):
        file.write_bytes(bytes(2 << 20) + last)
        folders.append(locate(ModelConfig(path=str(file)), tmp_path / "cache").folder)
    assert made == [*b"ab"]
    assert folders[0] == folders[2] != folders[1]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all"])
def test_a_file_that_holds_no_model_is_refused(tmp_path, content):
    (tmp_path / "some.gguf").write_bytes(content)
    with pytest.raises(UserError, match=r"some\.gguf cannot be loaded"):
        locate(ModelConfig(path=str(tmp_path / "some.gguf")), tmp_path / "cache")
    assert not list((tmp_path / "cache" / "models").glob("*"))
