# SPDX-License-Identifier: GPL-2.0-only
"""A user who floods the daemon: ``python -m tests.support.bus.flood ADDRESS UID KIND``.

It writes calls as fast as the bus takes them, until it is killed.
"""

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Final

from gi.repository import Gio, GLib

from ksplicd.bus import names

_AT_ONCE: Final = 200
_LONG: Final = "x" * (30 << 20)
_FDS: Final = 16
"""As many as dbus-daemon lets through (``max_message_unix_fds``)."""
_NULL: Final = os.open(os.devnull, os.O_RDONLY)


def _call(serial: int, member: str, args: GLib.Variant, fds: int = 0) -> bytes:
    """Return a call that wants no answer."""
    message = Gio.DBusMessage.new_method_call(
        names.BUS_NAME, names.ROOT_PATH, names.MANAGER, member
    )
    message.set_serial(serial)
    message.set_flags(Gio.DBusMessageFlags.NO_REPLY_EXPECTED)
    message.set_body(args)
    if fds:
        nulls = Gio.UnixFDList()
        for _ in range(fds):
            nulls.append(_NULL)
        message.set_unix_fd_list(nulls)
    return bytes(message.to_blob(Gio.DBusCapabilityFlags.UNIX_FD_PASSING))


def connect(address: str, uid: int) -> socket.socket:
    """Return a connection of a user, who has said hello; see the D-Bus specification."""
    os.setresuid(uid, uid, uid)
    bus = socket.socket(socket.AF_UNIX)
    bus.connect("\0" + address.removeprefix("unix:abstract="))
    hello = Gio.DBusMessage.new_method_call(
        names.DBUS, "/org/freedesktop/DBus", names.DBUS, "Hello"
    )
    hello.set_serial(1)
    bus.sendall(b"\0AUTH EXTERNAL %s\r\n" % str(uid).encode().hex().encode())
    bus.recv(1024)
    bus.sendall(b"NEGOTIATE_UNIX_FD\r\n")
    bus.recv(1024)
    bus.sendall(b"BEGIN\r\n" + hello.to_blob(Gio.DBusCapabilityFlags.NONE))
    return bus


def short() -> tuple[bytes, int]:
    """Return many calls that list, describe and introspect."""
    args = GLib.Variant("(s)", ("8c4o6ucj",))
    return b"".join(_call(2 + n, "Describe", args) for n in range(_AT_ONCE)), 0


def long() -> tuple[bytes, int]:
    """Return a call that is nearly as long as the bus lets through."""
    return _call(2, "Describe", GLib.Variant("(s)", (_LONG,))), 0


def descriptors() -> tuple[bytes, int]:
    """Return a call with many descriptors."""
    return _call(2, "Stage", GLib.Variant("(ha{sv})", (0, {})), _FDS), _FDS


KINDS: Final[dict[str, Callable[[], tuple[bytes, int]]]] = {
    "short": short,
    "long": long,
    "descriptors": descriptors,
}


def flood(bus: socket.socket, data: bytes, fds: int) -> None:
    """Send the same again and again; nobody needs the serials.  Ends when the bus hangs up."""

    def read() -> None:
        with contextlib.suppress(OSError):
            while bus.recv(1 << 16):
                pass

    threading.Thread(target=read, daemon=True).start()
    with contextlib.suppress(OSError):
        while True:
            sent = socket.send_fds(bus, [data], [_NULL] * fds) if fds else 0
            bus.sendall(memoryview(data)[sent:])


def main(address: str, uid: str, kind: str) -> None:
    data, fds = KINDS[kind]()
    bus = connect(address, int(uid))
    sys.stdout.write("floods\n")
    sys.stdout.flush()
    while True:
        flood(bus, data, fds)
        bus = connect(address, int(uid))


if __name__ == "__main__":
    main(*sys.argv[1:])
