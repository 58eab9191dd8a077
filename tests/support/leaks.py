"""Secrets of a server, collected while it is used, to be looked for elsewhere."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from coffea_sx.local import LocalServiceX
from coffea_sx.redact import Secret
from coffea_sx.servicex import http
from coffea_sx.servicex.models import SignedUrl, StoreKeys, TransformStatus
from coffea_sx.servicex.urls import UrlProvider


class Canaries:
    """Everything that must not be seen, and everything that was said."""

    def __init__(self, server: LocalServiceX, monkeypatch: pytest.MonkeyPatch) -> None:
        self.secrets: set[str] = {str(server.refresh_token)}
        self.log = io.StringIO()
        self._watch_grants(monkeypatch)
        self._watch_client(monkeypatch)

    def _watch_grants(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = UrlProvider._make

        def make(access: UrlProvider, names: Any) -> dict[str, SignedUrl]:
            grants = made(access, names)
            for grant in grants.values():
                query = grant.url.partition("?")[2]
                self.secrets.update(
                    part.partition("=")[2]
                    for part in query.split("&")
                    if part.startswith(("Signature", "AWSAccessKeyId", "X-Amz-Signature"))
                )
            return grants

        monkeypatch.setattr(UrlProvider, "_make", make)

    def _watch_client(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for model in (TransformStatus, StoreKeys):
            monkeypatch.setattr(model, "from_json", self._noting_keys(model.from_json))
        parse_token = http.parse_access_token

        def noted_token(response: dict[str, Any]) -> Secret:
            token = parse_token(response)
            self.secrets.add(token.reveal())
            return token

        monkeypatch.setattr(http, "parse_access_token", noted_token)

    def _noting_keys(self, parse: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
        def noted(response: dict[str, Any]) -> Any:
            keys = (response.get(f"minio-{name}-key") for name in ("access", "secret"))
            self.secrets.update(filter(None, keys))
            return parse(response)

        return noted

    def assert_absent(self, where: str, what: str | bytes) -> None:
        text = what.decode("latin-1") if isinstance(what, bytes) else what
        assert len(self.secrets) > 1  # the refresh token and the access token at least
        seen = [secret for secret in self.secrets if secret in text]
        assert not seen, f"{len(seen)} secrets in {where}"
