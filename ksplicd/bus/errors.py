# SPDX-License-Identifier: GPL-2.0-only
"""Errors on their way over the bus: refusals of every method, and names read back."""

from gi.repository import Gio, GLib

from ksplicd.errors import KspliceError, UnknownFlagsError, walk

_BY_NAME = {cls.dbus_name(): cls for cls in walk()}


def refuse_unknown_flags(flags: int) -> None:
    """Raise ``UnknownFlagsError`` for a bit that this version does not know."""
    if flags:
        raise UnknownFlagsError(f"flags {flags:#x} are not known; pass 0")


def refuse_unknown_options(options: dict[str, GLib.Variant], known: dict[str, str]) -> None:
    """Raise ``UnknownFlagsError`` for an option not in ``known`` (name → signature)."""
    for name, value in options.items():
        if name not in known:
            raise UnknownFlagsError(
                f"option {name!r} is not known; the known ones are {', '.join(known)}"
            )
        if value.get_type_string() != known[name]:
            raise UnknownFlagsError(
                f"option {name} has type {value.get_type_string()}, not {known[name]}"
            )


def class_of(error: GLib.Error) -> type[KspliceError] | None:
    """Return the class that the daemon raised; None when the error came from the bus itself."""
    return _BY_NAME.get(Gio.DBusError.get_remote_error(error) or "")


def text_of(error: GLib.Error) -> str:
    """Return the message as it was sent, without GLib's prefix.

    ``g_dbus_error_strip_remote_error`` does that in C; in Python it works on a copy.
    """
    name = Gio.DBusError.get_remote_error(error)
    return str(error.message).removeprefix(f"GDBus.Error:{name}: ")
