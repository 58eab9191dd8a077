"""Keep secrets out of text: URLs without their query, tokens that print as dots.

What is secret is known by how it looks (`redact`'s patterns), and by its value: every `Secret` of
this process is looked for in every text, because servers repeat what they are sent.
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

# Patterns look at a word at a time: in a text without spaces they would begin at every letter.
_WORD = re.compile(r"[^\s'\"<>]+")
_LONGEST_WORD = 8000
_URL_QUERY = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]{0,30}://)(?:[^/@\s'\"]*@)?(?P<rest>[^?\s'\"<>]*)\?[^\s'\"<>)]*"
)
_SIGNED_QUERY = re.compile(
    r"(?i)\?[^\s'\"<>)]*(?:x-amz-|x-goog-|signature=|awsaccesskeyid=|token=|authz=)[^\s'\"<>)]*"
)
_USERINFO = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]{0,30}://)[^/@\s'\"]+@")
_BEARER = re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]+")
# Shorter values are in texts by chance.
_SHORTEST = 8
# How many secrets are looked for: the newest, since access tokens are renewed every few minutes.
_MOST = 128


class _Known:
    """The secrets of this process, in all the ways in which they may be written."""

    def __init__(self) -> None:
        self._secrets: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._lock = threading.Lock()
        # Long ones first: a part of a secret must not hide the rest of it.
        self._written: tuple[str, ...] = ()

    def add(self, value: str) -> None:
        """Look for a secret from now on."""
        if len(value) < _SHORTEST:
            return
        with self._lock:
            if value in self._secrets:
                self._secrets.move_to_end(value)
                return
            self._secrets[value] = _ways_to_write(value)
            if len(self._secrets) > _MOST:
                self._secrets.popitem(last=False)
            written = frozenset().union(*self._secrets.values())
            self._written = tuple(sorted(written, key=len, reverse=True))

    def hide(self, text: str) -> str:
        """Replace all secrets in a text."""
        for written in self._written:
            if written in text:
                text = text.replace(written, "...")
        return text


def _ways_to_write(value: str) -> frozenset[str]:
    """Return a secret as it stands in headers, URLs, JSON, Python and base64, and its parts."""
    ways = {value, quote(value, safe=""), quote(value), quote_plus(value)}
    ways |= {json.dumps(value)[1:-1], repr(value)[1:-1]}
    content = value.encode("utf-8", "surrogatepass")
    ways.add(base64.b64encode(content).decode().rstrip("="))
    ways.add(base64.urlsafe_b64encode(content).decode().rstrip("="))
    # The payload and the signature of a token, but not its header, which is that of all tokens.
    parts = value.split(".")
    if len(parts) == 3:
        ways.update(parts[1:])
    return frozenset(way for way in ways if len(way) >= _SHORTEST)


_known = _Known()


def redact(text: str) -> str:
    """Drop query strings and user names of URLs, bearer tokens, and known secrets from a text.

    Examples
    --------
    >>> redact("GET http://host/bucket/a.root?X-Amz-Signature=abc failed")
    'GET http://host/bucket/a.root?... failed'
    """
    text = _WORD.sub(_without_urls_secrets, _known.hide(text))
    return _BEARER.sub(r"\1...", text)


def _without_urls_secrets(word: re.Match[str]) -> str:
    """Drop what is secret in the URLs of a word, and all of a word that is too long for a URL."""
    text = word[0]
    if "?" not in text and "@" not in text:
        return text
    if len(text) > _LONGEST_WORD:
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
        return {redact_all(key): redact_all(one) for key, one in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(redact_all, value))
    return value


def know(value: str) -> None:
    """Look for a secret in every text from now on, which others gave to this process."""
    _known.add(value)


class RedactingFilter(logging.Filter):
    """Redact log records: of libraries that log the URLs they are given."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact a record and let it pass."""
        # Of what cannot be formatted logging itself complains.
        with suppress(TypeError, ValueError):
            record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info:
            record.exc_text = redact("".join(format_exception(*record.exc_info)).rstrip())
        return True


class RedactingHandler(logging.NullHandler):
    """Redact the records of all loggers below one, before the handlers of others see them."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Redact a record, and show it nowhere."""
        return RedactingFilter().filter(record)


class Secret:
    """A string that prints as dots, refuses to be pickled, and is hidden in all texts.

    Examples
    --------
    >>> Secret("token")
    Secret('...')
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        know(value)

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
