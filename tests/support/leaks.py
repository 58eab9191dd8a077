"""Secrets of a server, collected while it is used, to be looked for elsewhere."""

from __future__ import annotations

import io
from typing import Any

import pytest

from coffea_sx.local import LocalServiceX
from coffea_sx.servicex.urls import SignedUrl, UrlProvider


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
        from coffea_sx.servicex.client import ServiceXClient

        status, exchanged = ServiceXClient.status, ServiceXClient._exchanged

        def noted_status(client: Any, request_id: str, **options: Any) -> Any:
            said = status(client, request_id, **options)
            self.secrets.update((said["minio-access-key"], said["minio-secret-key"]))
            return said

        def noted_token(client: Any, refresh_token: Any, end: float) -> Any:
            token = exchanged(client, refresh_token, end)
            self.secrets.add(token.reveal())
            return token

        monkeypatch.setattr(ServiceXClient, "status", noted_status)
        monkeypatch.setattr(ServiceXClient, "_exchanged", noted_token)

    def assert_absent(self, where: str, what: str | bytes) -> None:
        text = what.decode("latin-1") if isinstance(what, bytes) else what
        assert len(self.secrets) > 1  # the refresh token and the access token at least
        seen = [secret for secret in self.secrets if secret in text]
        assert not seen, f"{len(seen)} secrets in {where}"
