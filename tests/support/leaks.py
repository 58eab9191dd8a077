"""Secrets of a server, gathered from its responses by a proxy, to be searched for elsewhere."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from coffea_sx.local import LocalServiceX
from coffea_sx.testing import Answer, Fault, FaultProxy, Request
from coffea_sx.testing.faults import Ask, blocks

KEYS = {"access_token", "minio-access-key", "minio-secret-key"}
SIGNATURES = {"Signature", "AWSAccessKeyId", "X-Amz-Signature"}
OBJECT = re.compile("/[0-9a-f-]{36}/")


class Canaries:
    """Secrets that were sent during a test, and all that was logged.

    Parameters
    ----------
    secrets : iterable of str
        To begin with; further ones are added as they are sent.
    earlier : set of str
        Secrets of earlier tests, which may still be in use. They are searched for too.

    Attributes
    ----------
    stores : list of FaultProxy
        In front of stores whose URLs clients sign themselves.
    """

    def __init__(self, secrets: Iterable[str], earlier: set[str]) -> None:
        self.secrets = set(secrets)
        self.earlier = earlier
        self.log = io.StringIO()
        self.stores: list[FaultProxy] = []

    def assert_absent(self, where: str, what: str | bytes) -> None:
        for request in (request for store in self.stores for request in store.requests):
            self.secrets.update(_signatures(request.query))
        text = what.decode("latin-1") if isinstance(what, bytes) else what
        assert len(self.secrets) > 1  # the refresh token and a secret that was sent, at least
        seen = [secret for secret in self.secrets | self.earlier if secret in text]
        assert not seen, f"{len(seen)} secrets in {where}"


class SecretsProxy:
    """Proxy in front of a server, which takes notes of the secrets in responses and signed URLs.

    Parameters
    ----------
    server : LocalServiceX
        With tokens.

    Attributes
    ----------
    proxy : FaultProxy
        Rules of its script that come before `rule` see requests first.
    rule : Fault
        Takes notes of a response.
    """

    def __init__(self, server: LocalServiceX) -> None:
        self.server = server
        self.rule = Fault(self._note_response, times=None)
        self.proxy = FaultProxy(server.url, [self.rule])
        self._earlier: set[str] = set()
        self._canaries = Canaries((), self._earlier)

    def __enter__(self) -> SecretsProxy:
        self.proxy.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.proxy.stop()

    @property
    def url(self) -> str:
        return self.proxy.url

    def watch(self) -> Canaries:
        """Return the canaries of a new test."""
        self._canaries = Canaries({str(self.server.refresh_token)}, self._earlier)
        return self._canaries

    async def _note_response(self, request: Request, ask: Ask) -> Answer:
        answer = await ask()
        if OBJECT.match(request.path):
            self._note(_signatures(request.query))
            return answer
        content = b"".join([block async for block in answer.body])
        with suppress(ValueError):  # an error page
            self._note(_secrets_in(json.loads(content)))
        return replace(answer, body=blocks(content))

    def _note(self, secrets: Iterable[str]) -> None:
        self._canaries.secrets.update(secrets)
        self._earlier.update(self._canaries.secrets)


def _secrets_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (str(value[key]) for key in KEYS & value.keys() if value[key])
        for part in value.values():
            yield from _secrets_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from _secrets_in(part)
    elif isinstance(value, str):
        yield from _signatures(urlsplit(value).query)


def _signatures(query: str) -> Iterator[str]:
    yield from (text for name, text in parse_qsl(query) if name in SIGNATURES)
    # As they are written in the URL, too.
    yield from re.findall(rf"(?:{'|'.join(SIGNATURES)})=([^&]+)", query)


@contextmanager
def watched(secrets: SecretsProxy) -> Iterator[Canaries]:
    """Gather the secrets that are sent, and all logs at DEBUG."""
    canaries = secrets.watch()
    root = logging.getLogger()
    level = root.level
    handler = logging.StreamHandler(canaries.log)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield canaries
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
