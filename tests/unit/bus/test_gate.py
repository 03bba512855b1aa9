# SPDX-License-Identifier: GPL-2.0-only
"""What the gate lets pass, with its two sides in the hands of the test."""

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from ksplicd.bus import names
from ksplicd.bus.gate import Gate
from ksplicd.bus.message import Field, Kind, read_header, write
from ksplicd.bus.outbox import Outbox


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


def test_polkits_signals_are_polkits(sides: Sides) -> None:
    """Until it is known which connection is polkit, a signal of polkit is nobody's."""
    polkit = "org.freedesktop.PolicyKit1.Authority"
    early, true = sides.signal(polkit, ":1.7"), sides.signal(polkit, ":1.7")
    forged, named = sides.signal(polkit, ":1.8"), sides.signal(polkit, polkit)
    sides.bus.sendall(early)
    sides.bus.sendall(mark := sides.signal(names.DBUS, names.DBUS))
    assert sides.gate.end.recv(10_000) == mark
    sides.gate.hear_polkit(":1.7")
    sides.bus.sendall(forged + named + true)
    assert sides.gate.end.recv(10_000) == true


def ask(sides: Sides) -> int:
    """Send a call of an unknown caller; return the serial of the question whose it is."""
    fields: dict[Field, str | int] = {
        Field.PATH: "/a",
        Field.MEMBER: "ListUpdates",
        Field.SENDER: ":1.7",
    }
    sides.bus.sendall(write(Kind.CALL, 5, fields, "text"))
    question = sides.bus.recv(10_000)
    assert b"GetConnectionUnixUser" in question
    return read_header(question, 0).serial


def refuse(sides: Sides, serial: int, error: str) -> None:
    """Answer as the bus does that does not say whose a connection is."""
    fields: dict[Field, str | int] = {
        Field.ERROR_NAME: f"{names.DBUS}.Error.{error}",
        Field.REPLY_SERIAL: serial,
        Field.SENDER: names.DBUS,
    }
    sides.bus.sendall(write(Kind.ERROR, 9, fields, "text"))


def test_a_call_is_answered_when_the_bus_does_not_say_whose_it_is(sides: Sides) -> None:
    refuse(sides, ask(sides), "AccessDenied")
    answer = sides.bus.recv(10_000)
    header = read_header(answer, 0)
    assert (header.kind, header.number(Field.REPLY_SERIAL)) == (Kind.ERROR, 5)
    assert header.text(Field.DESTINATION) == ":1.7"
    assert b"does not say which user :1.7 is" in answer


def test_a_caller_who_has_gone_is_not_answered(sides: Sides) -> None:
    refuse(sides, ask(sides), "NameHasNoOwner")
    refuse(sides, ask(sides), "AccessDenied")  # the next question comes first
    assert b"does not say" in sides.bus.recv(10_000)


class Crowded(socket.socket):
    """A socket over which no descriptor goes (unix(7), ETOOMANYREFS)."""

    def sendmsg(self, *_: Any) -> int:
        raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))


def test_descriptors_that_cannot_be_sent_are_given_back() -> None:
    ours, theirs = socket.socketpair()
    given_back: list[str] = []
    with theirs, Crowded(fileno=ours.detach()) as crowded:
        outbox = Outbox(crowded)
        outbox.put(b"with", [3], lambda: given_back.append("with"))
        outbox.put(b"without")
        assert (given_back, outbox.size) == (["with"], 0)
        assert theirs.recv(100) == b"without"
