"""Servers of raw sockets, also with TLS."""

from __future__ import annotations

import ssl

import pytest
import trustme
from support.raw import RawServer


@pytest.fixture
def raw():
    servers = []

    def start(play):
        servers.append(RawServer(play))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def context(authority, tmp_path, monkeypatch):
    """Context of a server whose certificate is trusted here."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context
