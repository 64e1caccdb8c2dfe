"""Text in three parts that share nothing: calibration, healing, held-out.

Text of the user's own lies in files, or in a data set that is read as a stream (`data.hub`).
The embedded prose is the Python language reference, which ships with Python as
`pydoc_data.topics`: some 79 articles, half a megabyte. Articles overlap (one quotes another), so a
paragraph that was seen before is left out before the articles are dealt to the parts.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from layerprune.config.schema import DataConfig
from layerprune.data.hub import Render, Stream, Turns, content_of, stream
from layerprune.errors import UserError

PIECE_CHARS = 4000
"""Longer documents of a user's are cut at paragraph borders into pieces of about this size, so
that a single long file can be dealt to all three parts."""

FIELDS = ("text", "messages")
"""Of a row: a document, or a conversation."""

CALIBRATION_SHARE = 0.2
HELDOUT_SHARE = 0.2


Documents = tuple[str, ...] | Stream


@dataclass(frozen=True)
class Text:
    """Documents by what they are used for: all of them, or a stream of more than one can hold."""

    calibration: Documents
    healing: Documents
    heldout: Documents
    digest: str
    """Sixteen hex digits of a hash of all three parts, or of what names a data set's content."""


def no_template(turns: Turns) -> str:
    """What conversations are where no model says how it writes them: refused."""
    raise UserError("data: there are conversations in it, and no model to write them for.")


def read(config: DataConfig, render: Render = no_template) -> Text:
    """The text that `data` names, dealt to its three parts.

    `render` writes a conversation in a model's own form. Raises `UserError` for a file that is
    missing, empty or of an unknown kind.
    """
    if config.hub is not None:
        return _streamed(config, config.hub, render)
    if config.files is None:
        return deal(_embedded_documents())
    rows = [row for name in config.files for row in _file_rows(Path(name))]
    pieces = [piece for row in rows if isinstance(row, str) for piece in _pieces(row)]
    # Conversations stay whole: what opens a turn, closes it.
    return deal([*_without_repeats(pieces), *(render(r) for r in rows if not isinstance(r, str))])


def unread(config: DataConfig) -> Text:
    """What `data` names, without a look at it: enough to plan a run."""
    return Text((), (), (), digest=f"{config.hub}, not here")


def deal(documents: Iterable[str]) -> Text:
    """Deal documents to the three parts, by the order of their hashes: a fixed shuffle."""
    shuffled = sorted({_digest(document): document for document in documents}.items())
    total = len(shuffled)
    if total < 3:
        raise UserError(
            f"data.files: {total} piece(s) of text cannot be dealt to calibration, healing and "
            f"held-out text: give at least three documents, or {3 * PIECE_CHARS} characters."
        )
    first = max(1, round(CALIBRATION_SHARE * total))
    second = first + max(1, round(HELDOUT_SHARE * total))
    texts = [text for _, text in shuffled]
    return Text(
        calibration=tuple(texts[:first]),
        heldout=tuple(texts[first:second]),
        healing=tuple(texts[second:]),
        digest=_digest("\0".join(key for key, _ in shuffled)),
    )


def _streamed(config: DataConfig, path: str, render: Render) -> Text:
    """Healing text from one split, the rest from another; or all from the same."""

    def part(name: str, split: str) -> Stream:
        named = path, config.config, config.revision, split, config.field
        return Stream(name, stream(*named, render))

    content = content_of(path, config.revision)
    named = (content, config.config, config.field, config.healing_split, config.heldout_split)
    return Text(
        calibration=part("calibration", config.heldout_split),
        healing=part("healing", config.healing_split),
        heldout=part("heldout", config.heldout_split),
        digest=_digest("\0".join(map(str, named))),
    )


def _embedded_documents() -> list[str]:
    from pydoc_data.topics import topics

    return _without_repeats(topics[name] for name in sorted(topics))


def _without_repeats(documents: Iterable[str]) -> list[str]:
    """The documents, each without the paragraphs that stood in one before it."""
    seen: set[str] = set()
    kept = []
    for document in documents:
        paragraphs = []
        for paragraph in document.split("\n\n"):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                paragraphs.append(paragraph)
        if paragraphs:
            kept.append("\n\n".join(paragraphs))
    return kept


def _file_rows(path: Path) -> list[str | Turns]:
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"data.files: {path} does not exist.") from None
    except IsADirectoryError:
        raise UserError(f"data.files: {path} is a folder: name the files in it.") from None
    except UnicodeDecodeError:
        raise UserError(f"data.files: {path} is not UTF-8 text.") from None
    if path.suffix == ".txt":
        rows: list[str | Turns] = [content]
    elif path.suffix == ".jsonl":
        rows = _jsonl_rows(path, content)
    else:
        raise UserError(f"data.files: {path}: use a .txt, a .jsonl or a .parquet file.")
    if all(isinstance(row, str) and not row.strip() for row in rows):
        raise UserError(f"data.files: {path} has no text in it.")
    return rows


def _parquet_rows(path: Path) -> list[str | Turns]:
    import pyarrow
    from pyarrow import parquet

    try:
        names = set(parquet.read_schema(path).names)
        field = next(name for name in FIELDS if name in names)
        column = parquet.read_table(path, columns=[field]).column(field)
    except FileNotFoundError:
        raise UserError(f"data.files: {path} does not exist.") from None
    except (StopIteration, pyarrow.ArrowInvalid):
        raise UserError(
            f"data.files: {path} is no parquet file with a column `text` or `messages`."
        ) from None
    rows = [row for row in column.to_pylist() if _is_text(row) or _is_conversation(row)]
    if not rows:
        raise UserError(f"data.files: {path} has no text in it.")
    return rows


def _jsonl_rows(path: Path, content: str) -> list[str | Turns]:
    rows: list[str | Turns] = []
    # Not splitlines: JSON may hold a raw U+2028 inside a string.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            row = next(found[field] for field in FIELDS if field in found)
        except (ValueError, StopIteration, TypeError):
            row = None
        if not isinstance(row, str) and not _is_conversation(row):
            raise UserError(
                f'data.files: {path}, line {number} is not an object like {{"text": "..."}} or '
                '{"messages": [{"role": "user", "content": "..."}, ...]}.'
            )
        rows.append(row)
    return rows


def _is_text(row: object) -> bool:
    return isinstance(row, str) and bool(row.strip())


def _is_conversation(row: object) -> bool:
    return (
        isinstance(row, list)
        and bool(row)
        and all(isinstance(turn, dict) and {"role", "content"} <= set(turn) for turn in row)
    )


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
    """What blank lines separate; a longer paragraph than a piece, in parts of a piece's size."""
    for paragraph in document.split("\n\n"):
        while len(paragraph) > PIECE_CHARS:
            cut = max(paragraph.rfind(mark, 1, PIECE_CHARS) for mark in "\n ")
            cut = cut if cut > 0 else PIECE_CHARS
            yield paragraph[:cut]
            paragraph = paragraph[cut:].lstrip()
        if paragraph.strip():
            yield paragraph


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
