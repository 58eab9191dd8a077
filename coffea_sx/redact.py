"""Redaction of secrets in text: URLs without their query, tokens that print as dots.

Secrets are found by patterns and by value: every `Secret` of this process is hidden in every text,
because servers repeat what they are sent.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
from collections import OrderedDict
from contextlib import suppress
from traceback import format_exception
from typing import Any, NoReturn
from urllib.parse import quote, quote_plus

# Patterns are applied word by word: in a text without spaces they would begin at every letter.
_WORD = re.compile(r"[^\s'\"<>]+")
_MAX_WORD_LENGTH = 8000
_URL_QUERY = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]{0,30}://)(?:[^/@\s'\"]*@)?(?P<rest>[^?\s'\"<>]*)\?[^\s'\"<>)]*"
)
_SIGNED_QUERY = re.compile(
    r"(?i)\?[^\s'\"<>)]*(?:x-amz-|x-goog-|signature=|awsaccesskeyid=|token=|authz=)[^\s'\"<>)]*"
)
_USERINFO = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]{0,30}://)[^/@\s'\"]+@")
_BEARER = re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]+")
# Shorter values occur in texts by chance.
_MIN_SECRET_LENGTH = 8


class SecretRegistry:
    """The newest secrets of this process, with all spellings of each.

    Parameters
    ----------
    max_secrets : int
        Number of secrets that are kept: access tokens are renewed every few minutes.
    """

    def __init__(self, max_secrets: int = 128) -> None:
        self._max_secrets = max_secrets
        self._secrets: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._lock = threading.Lock()
        # Long ones first: a part of a secret must not hide the rest of it.
        self._spellings: tuple[str, ...] = ()

    def add(self, value: str) -> None:
        """Hide a secret from now on."""
        if len(value) < _MIN_SECRET_LENGTH:
            return
        with self._lock:
            if value in self._secrets:
                self._secrets.move_to_end(value)
                return
            self._secrets[value] = _spellings(value)
            if len(self._secrets) > self._max_secrets:
                self._secrets.popitem(last=False)
            spellings = frozenset().union(*self._secrets.values())
            self._spellings = tuple(sorted(spellings, key=len, reverse=True))

    def hide(self, text: str) -> str:
        """Replace all secrets in a text by dots."""
        for spelling in self._spellings:
            if spelling in text:
                text = text.replace(spelling, "...")
        return text


def _spellings(value: str) -> frozenset[str]:
    """Return a secret as written in headers, URLs, JSON, Python and base64, and its parts."""
    spellings = {value, quote(value, safe=""), quote(value), quote_plus(value)}
    spellings |= {json.dumps(value)[1:-1], repr(value)[1:-1]}
    content = value.encode("utf-8", "surrogatepass")
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        spellings.add(encode(content).decode().rstrip("="))
    # The payload and the signature of a token, but not its header, which is the same in all tokens.
    parts = value.split(".")
    if len(parts) == 3:
        spellings.update(parts[1:])
    return frozenset(spelling for spelling in spellings if len(spelling) >= _MIN_SECRET_LENGTH)


_registry = SecretRegistry()


# Hides a value in every text from now on.
hide_secret = _registry.add


def redact(text: str) -> str:
    """Drop query strings and user names of URLs, bearer tokens, and registered secrets from a text.

    Examples
    --------
    >>> redact("GET http://host/bucket/a.root?X-Amz-Signature=abc failed")
    'GET http://host/bucket/a.root?... failed'
    """
    text = _WORD.sub(_redact_urls, _registry.hide(text))
    return _BEARER.sub(r"\1...", text)


def _redact_urls(word: re.Match[str]) -> str:
    """Drop the secrets in the URLs of a word, or the whole word if it is too long for a URL."""
    text = word[0]
    if "?" not in text and "@" not in text:
        return text
    if len(text) > _MAX_WORD_LENGTH:
        return "..."
    text = _URL_QUERY.sub(r"\g<scheme>\g<rest>?...", text)
    text = _SIGNED_QUERY.sub("?...", text)
    return _USERINFO.sub(r"\g<scheme>", text)


def redact_all(value: Any) -> Any:
    """Redact all texts in a value made of lists, tuples, sets and dicts.

    Examples
    --------
    >>> redact_all({"urls": ["http://host/a?Signature=abc"], "status": 403})
    {'urls': ['http://host/a?...'], 'status': 403}
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_all(key): redact_all(item) for key, item in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(redact_all, value))
    return value


class RedactingFilter(logging.Filter):
    """Filter that redacts log records, for libraries that log URLs."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact a record and let it pass."""
        # Logging itself reports a record that cannot be formatted.
        with suppress(TypeError, ValueError):
            record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info:
            record.exc_text = redact("".join(format_exception(*record.exc_info)).rstrip())
        return True


class RedactingHandler(logging.NullHandler):
    """Handler that redacts the records of a logger before handlers of its parents get them."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Redact a record, and write it nowhere."""
        return RedactingFilter().filter(record)


class Secret:
    """A string that prints as dots, cannot be pickled, and is hidden in all texts.

    Examples
    --------
    >>> Secret("token")
    Secret('...')
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        hide_secret(value)

    def reveal(self) -> str:
        """Return the string itself, for the request that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('...')"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret stays in the process that owns it and is never pickled")

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)
