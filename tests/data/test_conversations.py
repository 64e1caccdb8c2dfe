"""Conversations become the tokens that transformers itself makes of them."""

import json
from itertools import pairwise

import pytest
from tiny import byte_tokenizer, tiny
from tokenizers.processors import TemplateProcessing

from layerprune.config.schema import DataConfig, ModelConfig
from layerprune.data.conversations import RenderedText, plain_turn
from layerprune.data.sequences import cut_documents, pack_documents
from layerprune.data.text import read_text
from layerprune.errors import UserError
from layerprune.model.load import conversation_renderer, load_tokenizer
from layerprune.model.source import locate

TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}"
    "{% if turn.role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    "<{{ turn.role }}>{{ turn.content | trim }}"
    "{% for call in turn.tool_calls or [] %}{{ call.function.arguments | tojson }}{% endfor %}"
    "{{ eos_token }}{% endfor %}"
)
WORDS = "The river runs past the mill and the fields. "


def talk(number, content=str):
    words = f"Talk {number}. {WORDS * 2}".strip()
    turns = [{"role": role, "content": content(words)} for role in ("user", "assistant")]
    return {"messages": turns}


@pytest.fixture
def source(tmp_path):
    """A model whose tokenizer and whose template both write BOS."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = TEMPLATE
    tiny("llama", vocab_size=259).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return locate(ModelConfig(path=str(tmp_path / "model")), tmp_path / "cache")


def read(source, tmp_path, rows):
    path = tmp_path / "talks.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return read_text(DataConfig(files=[str(path)]), conversation_renderer(source))


def parts(words):
    return [{"type": "text", "text": words[:20]}, {"type": "text", "text": words[20:]}]


@pytest.mark.parametrize("content", [str, parts])
def test_a_conversation_is_what_transformers_makes_of_it(source, tmp_path, content):
    text = read(source, tmp_path, [talk(number, content) for number in range(9)])
    tokenizer = load_tokenizer(source)
    expected = [
        tokenizer.apply_chat_template(talk(number)["messages"], return_dict=False)
        for number in range(9)
    ]
    assert all(ids[0] == tokenizer.bos_token_id != ids[1] for ids in expected)
    for document in (*text.calibration, *text.healing, *text.heldout):
        (ids,) = pack_documents([document], tokenizer, len(tokenizer.tokenize(document)), 1)
        assert ids.tolist() in expected  # and no end-of-text token after the template's
        (cut,) = cut_documents([document], tokenizer, 64, 1)
        assert cut.tolist() in [ids[:64] for ids in expected]


def test_text_and_conversations_lie_in_one_file(source, tmp_path):
    rows = [{"text": f"Row {number}. {WORDS}", "messages": None} for number in range(4)]
    text = read(source, tmp_path, [*rows, *(talk(number) for number in range(4))])
    documents = (*text.calibration, *text.healing, *text.heldout)
    assert [isinstance(document, RenderedText) for document in documents].count(True) == 4
    tokenizer = load_tokenizer(source)
    packed = pack_documents(documents, tokenizer, 1, 5000).flatten().tolist()
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    starts = [at for at, token in enumerate(packed) if token == bos]
    assert all(packed[at + 1] != bos for at in starts)
    assert all((one, other) != (eos, eos) for one, other in pairwise(packed))


def test_no_content_is_empty_and_arguments_of_tools_are_objects():
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    turn = plain_turn({"role": "assistant", "content": None, "tool_calls": [call]})
    assert turn["content"] == ""
    assert turn["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert plain_turn({"role": "user", "content": "Hi"}) == {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"role": "system", "content": "Be brief."}, "no system turns"),
        ({"role": "user", "content": [{"type": "image", "url": "a.png"}]}, "parts other than text"),
        ({"role": "user", "content": 3}, "is no text"),
    ],
)
def test_a_refused_conversation_is_named_by_file_and_row(source, tmp_path, turn, reason):
    rows = [talk(0), {"messages": [turn, *talk(1)["messages"]]}]
    with pytest.raises(UserError, match=rf"talks\.jsonl, line 2: .*{reason}"):
        read(source, tmp_path, rows)
