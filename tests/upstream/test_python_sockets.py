"""Canaries: internals of Python's standard library still do what the package needs of them."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading

import pytest
import trustme


class Noted(socket.socket):
    """Notes which of its methods are called."""

    __slots__ = ()
    calls: set[str] = set()

    def recv_into(self, *args):
        self.calls.add("recv_into")
        return super().recv_into(*args)

    def send(self, *args):
        self.calls.add("send")
        return super().send(*args)

    def sendall(self, data, flags=0):
        assert self.send(data, flags) == len(data)


class NotedWithTLS(Noted, ssl.SSLSocket):
    def do_handshake(self, block=False):
        self.calls.add("do_handshake")
        super().do_handshake(block)


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def endpoints(authority):
    """The two ends of a connection: a `Noted` socket, and the other side with TLS on request."""
    Noted.calls.clear()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Noted(socket.AF_INET, socket.SOCK_STREAM)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield client, server


def respond(server, context=None):
    """Answer one request in another thread."""

    def run():
        stream = context.wrap_socket(server, server_side=True) if context else server
        stream.recv(4096)
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        if context:
            stream.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def request_over(opened):
    connection = http.client.HTTPConnection("host")
    connection.sock = opened
    connection.request("GET", "/")
    return connection.getresponse().read()


def test_http_client_reads_and_writes_with_methods_of_its_socket(endpoints):
    client, server = endpoints
    thread = respond(server)
    assert request_over(client) == b"ok"
    thread.join()
    assert Noted.calls == {"recv_into", "send"}


def test_sockets_with_tls_can_be_of_another_class(endpoints, authority):
    """All their waits are in methods that the class replaces."""
    client, server = endpoints
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    thread = respond(server, context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    trusting.sslsocket_class = NotedWithTLS
    with trusting.wrap_socket(client, server_hostname="127.0.0.1") as encrypted:
        assert type(encrypted) is NotedWithTLS
        assert request_over(encrypted) == b"ok"
    thread.join()
    assert Noted.calls == {"do_handshake", "recv_into", "send"}
