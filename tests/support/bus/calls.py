# SPDX-License-Identifier: GPL-2.0-only
"""The sample bundle, and D-Bus calls as any program makes them."""

from typing import Any

import pytest
from gi.repository import Gio, GLib

from ksplicd.bus import names
from ksplicd.bus.errors import text_of
from tests.support.bundles import samples
from tests.support.bus.host import Host

BUNDLE = samples.bundle()
SIGNATURE = samples.signature(BUNDLE)
KID = samples.KID
MANAGER = (names.BUS_NAME, names.ROOT_PATH, names.MANAGER)
UPDATE = (names.BUS_NAME, names.update_path(KID), names.UPDATE)
ERROR = "org.ksplice.Ksplicd1.Error."


def call(
    host: Host,
    where: tuple[str, str, str],
    method: str,
    args: GLib.Variant | None = None,
    connection: Gio.DBusConnection | None = None,
) -> Any:
    """Call a method, as root by default, and return its reply; raises ``GLib.Error``."""
    flags = Gio.DBusCallFlags.NONE
    reply = (connection or host.connect()).call_sync(*where, method, args, None, flags, -1, None)
    return reply.unpack()


def error_of(
    host: Host, where: tuple[str, str, str], method: str, args: GLib.Variant | None = None
) -> tuple[str, str]:
    """Return (name, text) of the error that a call ends in."""
    with pytest.raises(GLib.Error, match=r"\w") as caught:
        call(host, where, method, args)
    return Gio.DBusError.get_remote_error(caught.value), text_of(caught.value)


def begin(host: Host) -> tuple[int, str]:
    """Start a transition that does not end."""
    host.kernel.hold()
    host.client().stage(BUNDLE, SIGNATURE)
    job, path = call(host, MANAGER, "Apply", GLib.Variant("(st)", (KID, 0)))
    return job, path
