"""Canaries for the internal API of uvicorn."""

from __future__ import annotations

import asyncio
import socket

import pytest

from coffea_sx._upstream.uvicorn import HTTPProtocol, protocol_factory, sockets_of

uvicorn = pytest.importorskip("uvicorn")


class Recorder(HTTPProtocol):
    """Records the states of a connection."""

    def __init__(self, states: list[tuple[bool, bool]], **options: object) -> None:
        super().__init__(**options)
        self.states = states

    def data_received(self, data: bytes) -> None:
        self.states.append((self.is_idle, self.is_write_paused))
        super().data_received(data)
        self.states.append((self.is_idle, self.is_write_paused))


async def respond(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def test_a_protocol_of_its_own_serves_a_connection():
    states: list[tuple[bool, bool]] = []

    async def run() -> bytes:
        server = uvicorn.Server(uvicorn.Config(respond, log_config=None, lifespan="off", ws="none"))
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(protocol_factory(Recorder, server, states), ours)
        reader, writer = await asyncio.open_connection(sock=theirs)
        assert [opened.fileno() for opened in sockets_of(server)] == [ours.fileno()]
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        response = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert sockets_of(server) == []
        return response

    assert asyncio.run(run()).startswith(b"HTTP/1.1 204 ")
    assert states == [(True, False), (False, False)]
