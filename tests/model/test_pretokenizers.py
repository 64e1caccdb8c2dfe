"""Splits before byte-level BPE: equal to llama.cpp's own, for every name that is read.

`llama_cpp_splits.json` was written by tools/llama_cpp_splits.py with llama.cpp's source, as in
llama-cpp-python 0.3.36.
"""

import json
from pathlib import Path

import pytest
from tiny import byte_tokenizer
from transformers import GPT2Tokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    GGUF_PRE_TOKENIZER_SPLITS,
    set_split_regex,
)

from layerprune.model.pretokenizers import SPLITS, set_pre_tokenizer

EXPECTED = json.loads(Path(__file__).with_name("llama_cpp_splits.json").read_text(encoding="utf-8"))

APPROXIMATED = {
    "e\u0301 combining": {"gpt-4o", "kanana2", "llama4", "minimax-m2", "talkie", "tekken"},
    "\u00a0nbsp\u3000wide": {"deepseek-coder"},
}
"""Texts that llama.cpp's expressions split differently from the models' tokenizer.json: it has no
classes of combining marks there, and takes a wide space for no Chinese character."""


@pytest.mark.parametrize("name", EXPECTED["splits"])
def test_text_is_split_as_in_llama_cpp(name):
    tokenizer = byte_tokenizer()
    set_split_regex(tokenizer, {"pre_tokenizer_type": name})  # transformers' own names
    assert set_pre_tokenizer(tokenizer, name)
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    for text, expected in zip(EXPECTED["texts"], EXPECTED["splits"][name], strict=True):
        pieces = [piece for piece, _ in splitter.pre_tokenize_str(text)]
        assert (pieces == expected) is (name not in APPROXIMATED.get(text, ())), repr(text)


def test_every_name_was_compared():
    assert set(SPLITS) | set(GGUF_PRE_TOKENIZER_SPLITS) == set(EXPECTED["splits"])


def test_an_unknown_name_changes_nothing():
    tokenizer = byte_tokenizer()
    before = tokenizer.backend_tokenizer.to_str()
    assert not set_pre_tokenizer(tokenizer, "of-tomorrow")
    assert tokenizer.backend_tokenizer.to_str() == before


def test_a_piece_in_the_vocabulary_is_one_token_whatever_the_merges():
    vocabulary = {"x": 0, "y": 1, "xy": 2}
    for name, tokens in (("tekken", [2]), ("smollm", [0, 1])):
        tokenizer = GPT2Tokenizer(vocab=dict(vocabulary), merges=[])
        assert set_pre_tokenizer(tokenizer, name)
        assert tokenizer.backend_tokenizer.encode("xy").ids == tokens
