# SPDX-License-Identifier: GPL-2.0-only
"""The daemon's connection to a bus, with a gate in it."""

import os
import socket
from typing import Any, Final

from gi.repository import Gio
from pydbus.bus import Bus

from ksplicd.bus.gate import Gate

_CLOSE_SECONDS: Final = 2.0


class GatedBus(Bus):  # type: ignore[misc]
    """A pydbus bus that knows whose a call is."""

    def __init__(self, connection: Gio.DBusConnection, gate: Gate) -> None:
        super().__init__(connection)
        self._gate = gate
        self.uid_of, self.hear_polkit = gate.uid_of, gate.hear_polkit

    def close(self) -> None:
        """Send what is still to be sent, and hang up."""
        if not self.con.is_closed():
            self.con.close_sync(None)
        self._gate.join(_CLOSE_SECONDS)


def connect(address: str) -> Any:
    """Return the bus at ``address``: ``system``, ``session``, or as in DBUS_*_ADDRESS.

    Raises ``GLib.Error``.
    """
    kinds = {"system": Gio.BusType.SYSTEM, "session": Gio.BusType.SESSION}
    if address in kinds:
        address = Gio.dbus_address_get_for_bus_sync(kinds[address], None)
    stream, _guid = Gio.dbus_address_get_stream_sync(address, None)
    gate = Gate(socket.socket(fileno=os.dup(stream.get_socket().get_fd())))
    stream.close(None)
    inner = Gio.Socket.new_from_fd(gate.end.detach()).connection_factory_create_connection()
    flags = Gio.DBusConnectionFlags
    connection = Gio.DBusConnection.new_sync(
        inner, None, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None
    )
    return GatedBus(connection, gate)
