"""Text is dealt to parts that share nothing, the same way every time."""

import json
import time
from pathlib import Path

import pyarrow
import pytest
import torch
from pyarrow import parquet
from tiny import byte_tokenizer
from tokenizers import processors

from layerprune.config.schema import DataConfig
from layerprune.data.sequences import cached_sequences, cut_documents, pack_documents
from layerprune.data.text import _file_rows, _pieces, read_text, split_documents
from layerprune.errors import UserError

pytestmark = pytest.mark.quick


def paragraphs(documents):
    return {" ".join(part.split()) for text in documents for part in text.split("\n\n") if part}


def test_embedded_parts_share_no_paragraph():
    text = read_text(DataConfig())
    parts = [paragraphs(part) for part in (text.calibration, text.healing, text.heldout)]
    assert all(len(part) > 100 for part in parts)
    for at, part in enumerate(parts):
        for other in parts[at + 1 :]:
            assert not part & other
    assert sum(map(len, text.healing)) > 100_000
    assert text == read_text(DataConfig())


def test_digest_follows_the_content():
    documents = [f"document {number}" for number in range(10)]
    assert split_documents(documents).digest == split_documents(reversed(documents)).digest
    assert split_documents(documents).digest != split_documents([*documents, "one more"]).digest


def test_files_of_the_users_own(tmp_path):
    prose = "\n\n".join(f"Paragraph {number}. " + "word " * 100 for number in range(60))
    (tmp_path / "a.txt").write_text(prose)
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n{"text": "two"}\n')
    text = read_text(DataConfig(files=[str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")]))
    everything = text.calibration + text.healing + text.heldout
    assert paragraphs(everything) == paragraphs([prose, "one", "two"])
    assert text.calibration
    assert text.healing
    assert text.heldout


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", "", "contains no text"),
        ("blank.txt", " \n\n \n", "contains no text"),
        ("empty.jsonl", "\n", "contains no text"),
        ("broken.jsonl", '{"text": "a"}\n{"txt": "b"}\n', "line 2"),
        ("broken2.jsonl", "nonsense\n", "line 1"),
        ("some.pdf", "x", "use a .txt, a .jsonl or a .parquet"),
        ("short.txt", "one paragraph", "three documents"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_text(DataConfig(files=[str(tmp_path / name)]))


def test_missing_and_binary_files_are_named(tmp_path):
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match="UTF-8"):
        read_text(DataConfig(files=[str(tmp_path / "binary.txt")]))
    with pytest.raises(UserError, match="does not exist"):
        read_text(DataConfig(files=[str(tmp_path / "absent.txt")]))
    with pytest.raises(UserError, match="is a folder"):
        read_text(DataConfig(files=[str(tmp_path)]))


def test_sequences_never_span_two_documents():
    documents = ["a" * 10, "b" * 7, "c" * 4, "d" * 3]
    ids = cut_documents(documents, byte_tokenizer(), length=4, most=100)
    assert ids.shape == (4, 4)  # two of a, one of b, one of c, none of d
    assert all(len(set(row.tolist())) == 1 for row in ids)


def test_every_sequence_begins_as_the_tokenizer_begins():
    tokenizer = byte_tokenizer()
    tokenizer.add_bos_token = True
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    assert tokenizer("")["input_ids"] == [tokenizer.bos_token_id]
    ids = cut_documents(["abcdef"], tokenizer, length=4, most=9)
    assert ids.shape == (2, 4)
    assert ids[:, 0].tolist() == [tokenizer.bos_token_id] * 2
    assert ids[:, 1:].flatten().tolist() == byte_tokenizer()("abcdef")["input_ids"]


def test_one_long_paragraph_is_dealt_too(tmp_path):
    (tmp_path / "lines.txt").write_text("\n".join(f"line {at} of many" for at in range(2000)))
    text = read_text(DataConfig(files=[str(tmp_path / "lines.txt")]))
    assert all((text.calibration, text.healing, text.heldout))
    (tmp_path / "endless.txt").write_text("".join(map(str, range(5000))))
    assert read_text(DataConfig(files=[str(tmp_path / "endless.txt")])).heldout


def test_json_may_hold_a_raw_line_separator(tmp_path):
    rows = "".join(f'{{"text": "one\u2028two {at}"}}\n' for at in range(3))
    (tmp_path / "a.jsonl").write_text(rows, encoding="utf-8")
    assert "\u2028" in read_text(DataConfig(files=[str(tmp_path / "a.jsonl")])).heldout[0]


def test_fewer_sequences_are_taken_evenly():
    documents = [letter * 4 for letter in "abcdefgh"]
    tokenizer = byte_tokenizer()
    ids = cut_documents(documents, tokenizer, length=4, most=4)
    assert torch.equal(ids, cut_documents([documents[at] for at in (0, 2, 4, 6)], tokenizer, 4, 4))


def test_text_shorter_than_a_sequence_is_refused():
    with pytest.raises(UserError, match=r"data\.sequence_length=5"):
        cut_documents(["abcd"], byte_tokenizer(), length=5, most=1)


def jsonl(path, texts, field="text"):
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts))


@pytest.fixture
def data_set(tmp_path):
    """A data set with two splits that have documents in common."""
    folder = tmp_path / "set"
    folder.mkdir()
    jsonl(folder / "train.jsonl", [f"document {number} {'x' * 20}" for number in range(300)])
    jsonl(
        folder / "validation.jsonl", [f"document {number} {'x' * 20}" for number in range(250, 500)]
    )
    return folder


def streamed(folder, **settings):
    return read_text(DataConfig(hub=str(folder), **settings))


def test_streamed_parts_share_nothing_even_where_splits_do(data_set):
    text = streamed(data_set)
    parts = [set(part) for part in (text.calibration, text.healing, text.heldout)]
    assert all(len(part) > 20 for part in parts)
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert all(int(each.split()[1]) < 300 for each in parts[1])
    assert all(int(each.split()[1]) >= 250 for each in parts[0] | parts[2])


def test_streams_are_read_as_far_as_needed(data_set, monkeypatch):
    seen = []
    monkeypatch.setattr("layerprune.data.hub._percentile", lambda text: seen.append(text) or 50)
    ids = pack_documents(streamed(data_set).healing, byte_tokenizer(), length=8, most=3)
    assert ids.shape == (3, 8)
    assert len(seen) == 1
    windows = cut_documents(iter(["abcdef", "ab", "ghijkl"] * 9), byte_tokenizer(), 4, 2)
    assert windows.shape == (2, 4)
    assert byte_tokenizer().batch_decode(windows) == ["abcd", "ghij"]


def test_a_data_sets_digest_follows_its_content(data_set):
    before = streamed(data_set).digest
    assert before == streamed(data_set).digest
    assert before != streamed(data_set, healing_split="validation").digest
    jsonl(data_set / "train.jsonl", ["another"])
    assert before != streamed(data_set).digest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"field": "body"}, r"data\.field=body: .* text"),
        ({"healing_split": "nonsense"}, "nonsense"),
    ],
)
def test_what_a_data_set_lacks_is_named(data_set, settings, message):
    with pytest.raises(UserError, match=message):
        list(streamed(data_set, **settings).healing)


def test_a_data_set_at_home_is_that_of_its_folder(data_set, monkeypatch):
    monkeypatch.setenv("HOME", str(data_set.parent))
    there, here = streamed("~/set"), streamed(data_set)
    assert list(there.healing) == list(here.healing)


def test_what_a_library_does_not_find_is_not_taken_for_the_field(data_set, monkeypatch):
    def broken(*_, **__):
        raise KeyError("features")

    monkeypatch.setattr("datasets.load_dataset", broken)
    with pytest.raises(UserError, match=r"data\.hub=.* cannot be read: 'features'"):
        list(streamed(data_set).healing)


def test_a_data_set_that_is_nowhere_is_named():
    with pytest.raises(UserError, match=r"data\.hub=nobody/nothing"):
        streamed("nobody/nothing")


def test_parquet(tmp_path):
    from pyarrow import parquet, table

    texts = [f"Document {number}" for number in range(9)]
    parquet.write_table(table({"text": [*texts, None, " "]}), tmp_path / "a.parquet")
    text = read_text(DataConfig(files=[str(tmp_path / "a.parquet")]))
    assert sorted((*text.calibration, *text.healing, *text.heldout)) == texts
    parquet.write_table(table({"body": texts}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet.*`text`"):
        read_text(DataConfig(files=[str(tmp_path / "b.parquet")]))


def test_packed_sequences_are_stored_whole_or_not_at_all(tmp_path):
    made = []

    def make():
        made.append(1)
        return torch.arange(12, dtype=torch.int32).view(3, 4)

    path = tmp_path / "tokens" / "a.npy"
    first, second = cached_sequences(path, make), cached_sequences(path, make)
    assert len(made) == 1
    assert torch.equal(first, second)
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(cached_sequences(path, make), first)
    assert len(made) == 2


TALKS = [
    [{"role": "user", "content": f"What is {at}?\n\nSay."}, {"role": "assistant", "content": "It."}]
    for at in range(9)
]


def written(turns):
    return "".join(f"<{turn['role']}>{turn['content']}</>" for turn in turns)


def test_conversations_are_whole_documents_in_the_models_form(tmp_path):
    rows = [{"messages": talk} for talk in TALKS]
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "talks.parquet")
    for name in ("talks.jsonl", "talks.parquet"):
        text = read_text(DataConfig(files=[str(tmp_path / name)]), written)
        everything = text.calibration + text.healing + text.heldout
        assert sorted(everything) == sorted(map(written, TALKS))


def test_conversations_without_a_form_are_refused(tmp_path):
    (tmp_path / "talks.jsonl").write_text(json.dumps({"messages": TALKS[0]}))
    with pytest.raises(UserError, match="conversations"):
        read_text(DataConfig(files=[str(tmp_path / "talks.jsonl")]))
    (tmp_path / "talks.jsonl").write_text(json.dumps({"messages": [{"role": "user"}]}))
    with pytest.raises(UserError, match="line 1"):
        read_text(DataConfig(files=[str(tmp_path / "talks.jsonl")]), written)


def test_conversations_of_a_data_set_are_written_too(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [{"messages": talk} for talk in TALKS * 1]
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = read_text(DataConfig(hub=str(folder), field="messages"), written)
    found = [*text.calibration, *text.healing, *text.heldout]
    assert sorted(found) == sorted(map(written, TALKS))


def test_a_byte_order_mark_is_no_text(tmp_path):
    rows = "\n".join(json.dumps({"text": f"Row {number}. " + "Words. " * 9}) for number in range(9))
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / f"{encoding}.jsonl").write_text(rows, encoding=encoding)
        (tmp_path / f"{encoding}.txt").write_text(rows.replace("\n", "\n\n"), encoding=encoding)
    for suffix in ("jsonl", "txt"):
        files = [str(tmp_path / f"{name}.{suffix}") for name in ("utf-8", "utf-8-sig")]
        plain, marked = (_file_rows(Path(file)) for file in files)
        assert plain == marked


def test_half_an_emoji_is_replaced(tmp_path):
    rows = [{"text": f"Row {number} \ud83d"} for number in range(2)]
    rows += [{"text": "Row 2 \ud83d\ude00"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = read_text(DataConfig(files=[str(tmp_path / "a.jsonl")]))
    found = sorted((*text.calibration, *text.healing, *text.heldout))
    assert found == ["Row 0 \ufffd", "Row 1 \ufffd", "Row 2 \U0001f600"]


def test_one_long_line_takes_time_in_proportion_to_its_length():
    def seconds(megabytes):
        line = "the quick brown fox " * (50_000 * megabytes)
        start = time.process_time()
        _pieces(line)
        return time.process_time() - start

    assert seconds(16) < 10 * max(seconds(4), 0.01)


def test_columns_of_text_and_of_conversations_are_both_read(tmp_path):
    rows = [{"text": f"Row {number}", "messages": None} for number in range(3)]
    rows += [{"text": None, "messages": talk} for talk in TALKS[:3]]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "both.parquet")
    text = read_text(DataConfig(files=[str(tmp_path / "both.parquet")]), written)
    assert len(text.calibration + text.healing + text.heldout) == 6
