"""Removal of secrets (keys, tokens, passwords) from everything that is written."""

import logging
import os
import re
from typing import Any, TypeVar, cast

HIDDEN = "***"

MIN_LENGTH = 12
"""Shorter values of environment variables are ordinary words rather than secrets."""

_T = TypeVar("_T")

_NAME = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD)$")
"""Names of environment variables that hold secrets: WANDB_API_KEY, HF_TOKEN, ..."""

_IN_TEXT = (
    # scheme://user:password@host
    (re.compile(r"(\b[A-Za-z][\w+.-]*://)[^/@\s]+@"), rf"\1{HIDDEN}@"),
    # ...?token=VALUE&...
    (
        re.compile(r"(?i)([?&][\w.-]*(?:token|key|secret|password|signature|sig)=)[^&#\s'\"]+"),
        rf"\1{HIDDEN}",
    ),
    # a token of the Hugging Face hub
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}"), HIDDEN),
)


def redacted(content: _T) -> _T:
    """Return `content`, plain data, with the secrets in its strings hidden."""
    secrets = {
        value
        for name, value in os.environ.items()
        if _NAME.search(name.upper()) and len(value) >= MIN_LENGTH
    }
    return cast(_T, _clean(content, secrets))


class Redacted(logging.Formatter):
    """Format log entries, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return all lines of an entry."""
        return redacted(super().format(record))


def _clean(content: Any, secrets: set[str]) -> Any:
    if isinstance(content, str):
        for secret in secrets:
            content = content.replace(secret, HIDDEN)
        for pattern, instead in _IN_TEXT:
            content = pattern.sub(instead, content)
        return content
    if isinstance(content, dict):
        return {_clean(key, secrets): _clean(value, secrets) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_clean(value, secrets) for value in content]
    return content
