"""Connecting ends with the clock of its request."""

from __future__ import annotations

import socket
import threading

import pytest

from coffea_sx.wire.clock import Clock, Limits, OutOfTimeError
from coffea_sx.wire.sockets import connect


def test_looking_up_a_name_ends():
    over = threading.Event()

    def look_up(*args, **options):
        over.wait()
        return []

    clock = Clock(Limits(total_s=0.3))
    with clock, pytest.raises(OSError, match="the request is over"):
        connect("servicex.example.org", 80, look_up=look_up)
    over.set()
    with pytest.raises(OutOfTimeError, match="it sent 0 bytes in 0"):
        clock.raise_ending()


def test_a_name_without_addresses():
    with pytest.raises(OSError, match="no address"):
        connect("servicex.example.org", 80, look_up=lambda *args, **options: [])


def test_the_first_address_that_accepts(closed_port):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ports = closed_port, listener.getsockname()[1]
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)) for port in ports
        ]
        with connect("host", 80, look_up=lambda *args, **options: addresses) as connection:
            assert connection.getpeername()[1] == ports[1]
