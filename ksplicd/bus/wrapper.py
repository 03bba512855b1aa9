# SPDX-License-Identifier: GPL-2.0-only
"""pydbus's object wrapper, with what pydbus 0.6 lacks.

Methods are coroutines and so may answer later; descriptors pass both ways; the guard is asked
before a property is read, as before a call; an error keeps its D-Bus name, and the text of an
unforeseen error goes to the journal only.
"""

import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from gi.repository import Gio, GLib
from pydbus import registration

from ksplicd.bus import coroutines, names
from ksplicd.bus.interface import Args, BusObject, Signal
from ksplicd.bus.invocation import release_later
from ksplicd.errors import BadBundleError, KspliceError

_log = logging.getLogger(__name__)

MAX_ANSWER: Final = 12 << 20
"""Bytes of GVariant.  dbus-daemon(1) cuts off who sends a message of more than 32 MiB
(max_message_size), and D-Bus pads more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Who called, and how."""

    sender: str
    """Unique bus name, such as ``:1.42``."""
    uid: int | None
    """The sender's user, as the bus knows it; None when it is not known any more."""
    is_interactive: bool
    """Whether polkit may ask the user for a password."""
    wants_reply: bool
    """Whether the caller waits for the answer."""
    fds: Gio.UnixFDList | None

    def take_fd(self, index: int) -> int:
        """Return an own copy of the descriptor that argument ``h`` points at; the caller closes it.

        Raises ``BadBundleError`` when the message carries no such descriptor.
        """
        if self.fds is None or not 0 <= index < self.fds.get_length():
            raise BadBundleError("the message carries no such descriptor; pass an open bundle file")
        return int(self.fds.get(index))


Guard = Callable[[Call], Awaitable[None]]
"""Raises ``PermissionDeniedError`` when this caller may not read properties."""

UidOf = Callable[[str], int | None]
"""Returns whose a connection is (``gate``)."""


_tables: Final[dict[str, tuple[dict[str, list[str]], dict[str, str]]]] = {}
"""By interface: the signatures of what methods return, and of properties."""


class ObjectWrapper(registration.ObjectWrapper):  # type: ignore[misc]
    """Carries calls from GDBus to a ``BusObject``."""

    SignalEmitted = Signal()
    outargs: dict[str, list[str]]
    readable_properties: dict[str, str]

    def __init__(
        self, subject: BusObject, interfaces: list[Any], guard: Guard, uid_of: UidOf
    ) -> None:
        super().__init__(subject, interfaces)
        tables = self.outargs, self.readable_properties
        # What pydbus made is the same for all objects of an interface: one is kept.
        self.outargs, self.readable_properties = _tables.setdefault(subject.interface, tables)
        self._guard = guard
        self._uid_of = uid_of

    def call_method(
        self,
        _connection: Gio.DBusConnection,
        sender: str,
        _path: str,
        interface: str,
        name: str,
        parameters: GLib.Variant,
        invocation: Gio.DBusMethodInvocation,
    ) -> None:
        """Start the call; GDBus calls this."""
        message, kinds = invocation.get_message(), Gio.DBusMessageFlags
        flags = message.get_flags()
        call = Call(
            sender=sender,
            uid=self._uid_of(sender),
            is_interactive=bool(flags & kinds.ALLOW_INTERACTIVE_AUTHORIZATION),
            wants_reply=not flags & kinds.NO_AUTO_START,  # see gate
            fds=message.get_unix_fd_list(),
        )
        args = [_open(parameters.get_child_value(i)) for i in range(parameters.n_children())]
        coroutines.spawn(self._answer(invocation, self._perform(call, interface, name, args)))

    async def _perform(self, call: Call, interface: str, name: str, args: list[Any]) -> Any:
        """Return the reply as a variant."""
        if interface == names.PROPERTIES:
            await self._guard(call)
            await self.object.refresh()
            if name == "Get":
                return GLib.Variant("(v)", (self.object.get(args[1]),))
            return GLib.Variant("(a{sv})", (self.object.get_all(),))
        function, outs = self.object.find_method(name)
        return _reply(outs, await function(call, *args))

    async def _answer(
        self, invocation: Gio.DBusMethodInvocation, reply: Awaitable[GLib.Variant]
    ) -> None:
        try:
            invocation.return_value(await reply)
        except KspliceError as e:
            invocation.return_dbus_error(e.dbus_name(), str(e))
        except Exception:
            _log.exception("%s failed", invocation.get_method_name())
            invocation.return_dbus_error(
                names.INTERNAL_ERROR, "internal error; see the journal: journalctl -u ksplicd"
            )
        release_later(invocation)


def _reply(outs: Args, value: Any) -> GLib.Variant:
    """Return what a method returned as the body of its reply."""
    signature = "(" + "".join(sig for sig, _ in outs) + ")"
    match len(outs):
        case 0:
            return GLib.Variant("()", ())
        case 1 if isinstance(value, GLib.Variant):  # made on the worker's thread
            return GLib.Variant.new_tuple(value)
        case 1:
            return GLib.Variant(signature, (value,))
        case _:
            return GLib.Variant(signature, value)


def _open(value: GLib.Variant) -> Any:
    """Return an argument as Python data; the values of an ``a{sv}`` keep their type."""
    if value.get_type_string() == "a{sv}":
        entries = [value.get_child_value(i) for i in range(value.n_children())]
        return {
            entry.get_child_value(0).get_string(): entry.get_child_value(1).get_variant()
            for entry in entries
        }
    return value.unpack()


@functools.cache
def _interfaces_of(xml: str) -> list[Any]:
    """Return the interface, parsed once for all objects that have it."""
    interfaces: list[Any] = Gio.DBusNodeInfo.new_for_xml(xml).interfaces
    return interfaces


def register(bus: Any, path: str, subject: BusObject, guard: Guard) -> Any:
    """Put ``subject`` on the bus at ``path``; the result's ``unregister()`` takes it off."""
    interfaces = _interfaces_of(subject.xml())
    wrapper = ObjectWrapper(subject, interfaces, guard, bus.uid_of)
    return registration.ObjectRegistration(bus, path, interfaces, wrapper, own_wrapper=True)
