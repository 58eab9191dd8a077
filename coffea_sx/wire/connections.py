"""Pools of connections over clocked sockets."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from functools import lru_cache
from typing import Any

import certifi
import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from .._upstream.urllib3 import OwnSocketConnection, pools_of, use_pool_classes
from ..redact import RedactingFilter
from .sockets import EncryptedSocket, connect

# urllib3 logs every URL at DEBUG, with its signature.
logging.getLogger("urllib3.connectionpool").addFilter(RedactingFilter())


class _PlainConnection(OwnSocketConnection):
    def open_socket(self, host: str, port: int) -> socket.socket:
        return connect(host, port)


class _EncryptedConnection(_PlainConnection, HTTPSConnection):
    def connect(self) -> None:
        self.ssl_context = _tls_context(os.environ.get("SSL_CERT_FILE"))
        super().connect()


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _EncryptedPool(HTTPSConnectionPool):
    ConnectionCls = _EncryptedConnection


@lru_cache(maxsize=4)
def _tls_context(authorities: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()  # reads SSL_CERT_FILE itself
    if not authorities:
        # There are machines on which Python finds no authorities.
        context.load_verify_locations(certifi.where())
    context.sslsocket_class = EncryptedSocket
    return context


def make_pool(proxy_url: str | None = None, **options: Any) -> urllib3.PoolManager:
    """Make a pool of connections for `exchange`; options are those of ``urllib3.PoolManager``."""
    options = {"retries": False, "timeout": None, **options}
    if proxy_url is None:
        pool = urllib3.PoolManager(**options)
    else:
        pool = urllib3.ProxyManager(proxy_url, **options)
    use_pool_classes(pool, _PlainPool, _EncryptedPool)
    return pool


def close_pool(pool: urllib3.PoolManager) -> None:
    """Close the connections of a pool: idle ones now, others when their requests are over."""
    for pool_of_host in pools_of(pool):
        pool_of_host.close()
    pool.clear()
