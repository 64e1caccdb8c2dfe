"""Read text in three disjoint parts: calibration, healing, held-out.

The user's text comes from files, or from a data set that is streamed (`data.hub`). The bundled text
is Python's language reference, which ships with Python as `pydoc_data.topics`: some 79 articles,
half a megabyte. Articles quote each other, so repeated paragraphs are removed before the split.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerprune.config.schema import DataConfig
from layerprune.data.conversations import (
    Conversation,
    RenderConversation,
    RenderedText,
    is_conversation,
    located,
    valid_text,
)
from layerprune.data.hub import DocumentStream, dataset_identity
from layerprune.errors import UserError

PIECE_CHARS = 4000
"""Longer documents of a user are cut at paragraph borders into pieces of about this size, so that
even a single file has text for all three parts."""

FIELDS = ("text", "messages")
"""Names of a row's field with a document or a conversation; the first one with a value is read."""

CALIBRATION_SHARE = 0.2
HELDOUT_SHARE = 0.2


Documents = tuple[str, ...] | DocumentStream


@dataclass(frozen=True)
class TextSplits:
    """The documents of each part: a tuple, or a stream if there may be too many for memory."""

    calibration: Documents
    healing: Documents
    heldout: Documents
    digest: str
    """Sixteen hex digits of a hash of all three parts, or of a data set's identity."""


def refuse_conversation(turns: Conversation) -> str:
    """Raise `UserError`: a conversation needs a model's chat template."""
    raise UserError("it contains conversations, and there is no model to write them for.")


def read_text(config: DataConfig, render: RenderConversation = refuse_conversation) -> TextSplits:
    """Read the text of `data`, split into its three parts.

    `render` writes a conversation by a model's chat template. Raises `UserError` for a file that is
    missing, empty or of an unknown kind.
    """
    if config.hub is not None:
        return _streamed(config, config.hub, render)
    if config.files is None:
        from pydoc_data.topics import topics

        return split_documents(_without_repeats(topics[name] for name in sorted(topics)))
    pieces, conversations = [], []
    for path in (Path(name).expanduser() for name in config.files):
        for place, row in _file_rows(path):
            if isinstance(row, str):
                pieces += _pieces(valid_text(row))
                continue
            # Conversations are not cut into pieces: a turn that is opened must be closed.
            with located(f"data.files: {path}, {place}"):
                conversations.append(valid_text(render(row)))
    return split_documents([*_without_repeats(pieces), *conversations])


def split_documents(documents: Iterable[str]) -> TextSplits:
    """Split documents into the three parts in the order of their hashes: a fixed shuffle."""
    shuffled = sorted({_document_digest(document): document for document in documents}.items())
    total = len(shuffled)
    if total < 3:
        raise UserError(
            f"data.files: {total} piece(s) of text are too few for calibration, healing and "
            f"held-out text: give at least three documents, or {3 * PIECE_CHARS} characters."
        )
    first = max(1, round(CALIBRATION_SHARE * total))
    second = first + max(1, round(HELDOUT_SHARE * total))
    texts = [text for _, text in shuffled]
    return TextSplits(
        calibration=tuple(texts[:first]),
        heldout=tuple(texts[first:second]),
        healing=tuple(texts[second:]),
        digest=_digest("\0".join(key for key, _ in shuffled)),
    )


def _streamed(config: DataConfig, path: str, render: RenderConversation) -> TextSplits:
    """Stream healing text from one split, the rest from another (or the same)."""
    content = dataset_identity(path, config.revision)
    identity = (content, config.config, config.field, config.healing_split, config.heldout_split)
    return TextSplits(
        calibration=DocumentStream("calibration", config.heldout_split, config, render),
        healing=DocumentStream("healing", config.healing_split, config, render),
        heldout=DocumentStream("heldout", config.heldout_split, config, render),
        digest=_digest("\0".join(map(str, identity))),
    )


def _without_repeats(documents: Iterable[str]) -> list[str]:
    """Return the documents, each without the paragraphs of earlier ones."""
    seen: set[str] = set()
    distinct = []
    for document in documents:
        paragraphs = []
        for paragraph in document.split("\n\n"):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                paragraphs.append(paragraph)
        if paragraphs:
            distinct.append("\n\n".join(paragraphs))
    return distinct


def _file_rows(path: Path) -> list[tuple[str, str | Conversation]]:
    """Return the documents and conversations of a file, with their places in it; at least one."""
    if path.is_dir():
        raise UserError(f"data.files: {path} is a folder: name the files in it.")
    if not path.exists():
        raise UserError(f"data.files: {path} does not exist.")
    if path.suffix not in (".txt", ".jsonl", ".parquet"):
        raise UserError(f"data.files: {path}: use a .txt, a .jsonl or a .parquet file.")
    if path.suffix == ".parquet":
        rows = _parquet_rows(path)
    else:
        try:
            content = path.read_text(encoding="utf-8-sig")  # Windows begins files with a BOM
        except UnicodeDecodeError:
            raise UserError(f"data.files: {path} is not UTF-8 text.") from None
        rows = [("all of it", content)] if path.suffix == ".txt" else _jsonl_rows(path, content)
    rows = [
        (place, row)
        for place, row in rows
        if is_conversation(row) or (isinstance(row, str) and row.strip())
    ]
    if not rows:
        raise UserError(f"data.files: {path} contains no text.")
    return rows


def _parquet_rows(path: Path) -> list[tuple[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        names = [name for name in FIELDS if name in parquet.read_schema(path).names]
        rows = parquet.read_table(path, columns=names).to_pylist() if names else []
    except pyarrow.ArrowInvalid:
        names = []
    if not names:
        raise UserError(
            f"data.files: {path} is not a parquet file with a column `text` or `messages`."
        )
    return [(f"row {number}", _field(row)) for number, row in enumerate(rows)]


def _jsonl_rows(path: Path, content: str) -> list[tuple[str, Any]]:
    rows = []
    # Not splitlines: JSON may hold a raw U+2028 inside a string.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _field(json.loads(line))
        except (ValueError, AttributeError, RecursionError):
            row = None
        if not isinstance(row, str) and not is_conversation(row):
            raise UserError(
                f'data.files: {path}, line {number} is not an object like {{"text": "..."}} or '
                '{"messages": [{"role": "user", "content": "..."}, ...]}.'
            )
        rows.append((f"line {number}", row))
    return rows


def _field(fields: dict[str, Any]) -> Any:
    values = (fields.get(name) for name in FIELDS)
    return next((value for value in values if value is not None), None)


def _pieces(document: str) -> list[str]:
    pieces: list[str] = []
    current = ""
    for paragraph in _paragraphs(document):
        current = f"{current}\n\n{paragraph}" if current else paragraph
        if len(current) >= PIECE_CHARS:
            pieces.append(current)
            current = ""
    return [*pieces, current] if current else pieces


def _paragraphs(document: str) -> Iterator[str]:
    """Yield the paragraphs of a document; one longer than a piece in parts of a piece's size."""
    for paragraph in document.split("\n\n"):
        start, end = 0, len(paragraph)  # not by slices: a paragraph may have 100 MB
        while end - start > PIECE_CHARS:
            limit = start + PIECE_CHARS
            cut = max(paragraph.rfind(mark, start + 1, limit) for mark in "\n ")
            cut = cut if cut > start else limit
            yield paragraph[start:cut]
            start = cut
            while start < end and paragraph[start].isspace():
                start += 1
        if paragraph[start:].strip():
            yield paragraph[start:]


def _document_digest(document: str) -> str:
    # Text and conversations of equal content become other tokens.
    return _digest(f"\0{document}" if isinstance(document, RenderedText) else document)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
