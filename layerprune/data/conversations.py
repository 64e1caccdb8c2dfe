"""Conversations in the form that chat templates take, and the text that these write."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from layerprune.errors import UserError

Conversation = list[dict[str, Any]]
"""Turns, each with its `role` and `content`."""


class RenderedText(str):
    """A conversation as a model reads it: its special tokens are in the text."""

    __slots__ = ()


RenderConversation = Callable[[Conversation], str]
"""Writes a conversation as a model reads it."""


def is_conversation(row: object) -> bool:
    """Return True for a list of turns."""
    return (
        isinstance(row, list)
        and bool(row)
        and all(isinstance(turn, dict) and {"role", "content"} <= set(turn) for turn in row)
    )


def plain_turn(turn: dict[str, Any]) -> dict[str, Any]:
    """Return a turn with its content as one string, and tool arguments as objects.

    Templates print lists and `null` as Python does, or fail on them. Raises `UserError` for content
    other than text.
    """
    content = turn["content"]
    if isinstance(content, list):
        kinds = {part.get("type") if isinstance(part, dict) else type(part) for part in content}
        if kinds != {"text"}:
            raise UserError(
                f"the content of a turn by {turn['role']} has parts other than text "
                f"({', '.join(sorted(map(str, kinds - {'text'})))}): remove them."
            )
        content = "".join(part["text"] for part in content)
    plain = {**turn, "content": "" if content is None else content}
    if not isinstance(plain["content"], str):
        raise UserError(f"the content of a turn by {turn['role']} is no text: {content!r}.")
    if plain.get("tool_calls"):
        plain["tool_calls"] = [_tool_call(call) for call in plain["tool_calls"]]
    return plain


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    """Return a call whose arguments are an object: some services write them as a string."""
    function = call.get("function", call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            function = {**function, "arguments": json.loads(arguments)}
        except ValueError:
            return call
    return {**call, "function": function} if "function" in call else function


@contextmanager
def located(place: str) -> Iterator[None]:
    """Name the file and the row in errors about a conversation."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def valid_text(text: str) -> str:
    """Return text with halves of surrogate pairs joined, or replaced by U+FFFD if they are alone.

    JSON may hold half of an emoji, where text was cut by length; no tokenizer takes it.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return type(text)(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return text
