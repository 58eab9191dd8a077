"""Keep secrets out of text: URLs without their query, tokens that print as dots."""

from __future__ import annotations

import logging
import re
from typing import Any, NoReturn

_URL_QUERY = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?:[^/@\s'\"]*@)?(?P<rest>[^?\s'\"<>]*)\?[^\s'\"<>)]*"
)
_SIGNED_QUERY = re.compile(
    r"(?i)\?[^\s'\"<>)]*(?:x-amz-|x-goog-|signature=|awsaccesskeyid=|token=|authz=)[^\s'\"<>)]*"
)
_USERINFO = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^/@\s'\"]+@")
_BEARER = re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]+")


def redact(text: str) -> str:
    """Drop query strings and user names of URLs, and bearer tokens, from a text.

    Examples
    --------
    >>> redact("GET http://host/bucket/a.root?X-Amz-Signature=abc failed")
    'GET http://host/bucket/a.root?... failed'
    """
    text = _URL_QUERY.sub(r"\g<scheme>\g<rest>?...", text)
    text = _SIGNED_QUERY.sub("?...", text)
    text = _USERINFO.sub(r"\g<scheme>", text)
    return _BEARER.sub(r"\1...", text)


class RedactingFilter(logging.Filter):
    """Redact the arguments of log records, for libraries that log the URLs they are given."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact a record and let it pass."""
        if isinstance(record.args, tuple):
            record.args = tuple(redact(a) if isinstance(a, str) else a for a in record.args)
        return True


class Secret:
    """A string that prints as dots and refuses to be pickled.

    Examples
    --------
    >>> Secret("token")
    Secret('...')
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

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
