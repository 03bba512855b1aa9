# SPDX-License-Identifier: GPL-2.0-only
"""Calls of the daemon that do not reach it."""

from collections.abc import Sequence
from typing import Any, cast

import pytest
from gi.repository import Gio, GLib

from ksplicd.cli import client as module
from ksplicd.cli.client import Client
from ksplicd.errors import NoDaemonError


class Bus:
    """A connection that has these answers; None is a success."""

    def __init__(self, answers: Sequence[int | None]) -> None:
        self.answers = [*answers]

    def call_with_unix_fd_list_sync(self, *_: Any) -> tuple[GLib.Variant, None]:
        answer = self.answers.pop(0)
        if answer is not None:
            raise GLib.Error.new_literal(Gio.dbus_error_quark(), "no room", answer)
        return GLib.Variant("(a{sv})", ({},)), None


def client(bus: Bus) -> Client:
    return Client(cast(Gio.DBusConnection, bus))


def test_call_that_the_bus_has_no_room_for_is_made_again() -> None:
    bus = Bus([Gio.DBusError.LIMITS_EXCEEDED, Gio.DBusError.LIMITS_EXCEEDED, None])
    assert client(bus).describe("8c4o6ucj") == {}
    assert bus.answers == []


def test_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REFUSED_SECONDS", 0.0)
    with pytest.raises(NoDaemonError, match="no room"):
        client(Bus([Gio.DBusError.LIMITS_EXCEEDED])).describe("8c4o6ucj")


def test_other_errors_are_final() -> None:
    """The daemon may have done it."""
    with pytest.raises(NoDaemonError, match="no room"):
        client(Bus([Gio.DBusError.NO_REPLY])).describe("8c4o6ucj")
