# SPDX-License-Identifier: GPL-2.0-only
"""What the gate lets pass, with its two sides in the hands of the test."""

import socket
from collections.abc import Iterator

import pytest

from ksplicd.bus import names
from ksplicd.bus.gate import Gate
from ksplicd.bus.message import Field, Kind, write


class Sides:
    """A gate between two sockets."""

    def __init__(self) -> None:
        """Let the authentication be over."""
        self.bus, inner = socket.socketpair()
        self.bus.settimeout(5)
        self.gate = Gate(inner)
        self.gate.end.settimeout(5)
        self.gate.end.sendall(b"BEGIN\r\n")
        assert self.bus.recv(100) == b"BEGIN\r\n"

    def signal(self, interface: str, sender: str) -> bytes:
        """Return a signal."""
        fields: dict[Field, str | int] = {
            Field.PATH: "/a",
            Field.INTERFACE: interface,
            Field.MEMBER: "NameOwnerChanged",
            Field.SENDER: sender,
        }
        return write(Kind.SIGNAL, 7, fields, "text")


@pytest.fixture
def sides() -> Iterator[Sides]:
    sides = Sides()
    yield sides
    sides.gate.end.close()
    sides.bus.close()
    sides.gate.join(5)


def test_signals_of_the_bus_are_the_bus_s(sides: Sides) -> None:
    """Anybody may send a signal with the bus's interface, as many as he likes."""
    forged = sides.signal(names.DBUS, ":1.7")
    other = sides.signal("org.example.Other", ":1.8")
    true = sides.signal(names.DBUS, names.DBUS)
    sides.bus.sendall(forged + other + true)
    assert sides.gate.end.recv(10_000) == true
