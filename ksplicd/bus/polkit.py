# SPDX-License-Identifier: GPL-2.0-only
"""Authorization: polkit is asked, on the bus that the call came from.

The details of a question show up in the password dialog and in polkit's rules, so that a rule can
allow one update and refuse another.  Without polkit on the bus everyone may look and only root may
do more.  Root is not asked about: it is obeyed though polkit be ill.

Who may look is asked once for each connection, whatever the update, until polkit sends ``Changed``
or another polkit comes: everybody looks often.  Anybody may send a signal that looks like polkit's;
heard are those of the connection that has polkit's name.

The bus lets a connection wait for 128 answers at a time (``max_replies_per_connection`` of
dbus-daemon(1)), so questions take turns.  A password dialog may stay open for as long as its user
likes: polkit is asked without a dialog first, and only a caller who needs one takes one of a few
places, so that no other caller waits for it.  One user has a few of these at most.
"""

import contextlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from gi.repository import Gio, GLib

from ksplicd.bus import names
from ksplicd.bus.coroutines import Turn, Wait, spawn
from ksplicd.bus.errors import text_of
from ksplicd.bus.names import Action
from ksplicd.bus.wrapper import Call
from ksplicd.errors import CancelledError, PermissionDeniedError
from ksplicd.host.stages import Actor, Via

_ALLOW_USER_INTERACTION: Final = 1
_POLKIT: Final = "org.freedesktop.PolicyKit1"
DBUS: Final = (names.DBUS, "/org/freedesktop/DBus", names.DBUS)
"""The bus itself: name, path, interface."""

_WITHOUT_DIALOG_MS: Final = 25_000
_QUESTIONS: Final = 48
_DIALOGS: Final = 32
_BUS_QUESTIONS: Final = 32
"""At a time."""
_DIALOGS_OF_A_USER: Final = 4
_LOOKERS: Final = 1024
"""Connections that are known to be allowed to look."""
_ABSENT: Final = (
    Gio.DBusError.SERVICE_UNKNOWN,
    Gio.DBusError.NAME_HAS_NO_OWNER,
    Gio.DBusError.SPAWN_SERVICE_NOT_FOUND,
    Gio.DBusError.SPAWN_EXEC_FAILED,
    Gio.DBusError.SPAWN_CHILD_EXITED,
)


class Polkit:
    """polkit as seen over one bus connection."""

    def __init__(self, connection: Gio.DBusConnection, hear: Callable[[str], None]) -> None:
        """``hear`` is told which connection's signals are polkit's; empty: nobody's."""
        self._connection = connection
        self._hear = hear
        self._questions = Turn(_QUESTIONS)
        self._bus_questions = Turn(_BUS_QUESTIONS)
        self._dialogs: Counter[int | None] = Counter()
        """By user."""
        self._lookers: dict[str, None] = {}
        self._changes = 0
        connection.signal_subscribe(
            _POLKIT, f"{_POLKIT}.Authority", "Changed", None, None, Gio.DBusSignalFlags.NONE,
            lambda *_: self._forget(),
        )  # fmt: skip
        connection.signal_subscribe(
            names.DBUS, names.DBUS, "NameOwnerChanged", None, _POLKIT, Gio.DBusSignalFlags.NONE,
            lambda *signal: self._on_owner(signal[5].unpack()[2]),
        )  # fmt: skip
        spawn(self._find_owner())

    async def _find_owner(self) -> None:
        """Ask who is polkit; when nobody is, the bus tells as soon as somebody is."""
        with contextlib.suppress(GLib.Error):
            reply = await call_bus(
                self._connection, DBUS, "GetNameOwner", GLib.Variant("(s)", (_POLKIT,))
            )
            self._on_owner(reply.unpack()[0])

    def _on_owner(self, connection: str) -> None:
        self._hear(connection)
        self._forget()

    def _forget(self) -> None:
        """Forget what may be otherwise now."""
        self._changes += 1
        self._lookers.clear()

    async def check(self, call: Call, action: Action, **details: str) -> None:
        """Raise ``PermissionDeniedError`` unless ``call.sender`` may do ``action``.

        Root may, whether polkit answers or not.
        """
        if call.uid == 0:
            return
        try:
            is_allowed, is_challenge = await self._ask(call, action, details)
        except GLib.Error as e:
            if not any(e.matches(Gio.dbus_error_quark(), code) for code in _ABSENT):
                raise PermissionDeniedError(
                    f"{action} is refused for {call.sender}: polkit did not answer: {text_of(e)}"
                ) from e
            is_allowed, is_challenge = await self._is_allowed_without(call, action), False
        if is_allowed:
            return
        hint = (
            "; it needs a password: call again with interactive authorization, or as root"
            if is_challenge
            else "; call as root, or allow it in a polkit rule"
        )
        raise PermissionDeniedError(f"{action} is refused for {call.sender}{hint}")

    async def check_inspect(self, call: Call) -> None:
        """Raise ``PermissionDeniedError`` unless ``call.sender`` may inspect updates."""
        if call.sender in self._lookers:
            return
        changes = self._changes
        await self.check(call, Action.INSPECT)
        if changes == self._changes and call.uid != 0:
            if len(self._lookers) >= _LOOKERS:
                del self._lookers[next(iter(self._lookers))]
            self._lookers[call.sender] = None

    async def _ask(self, call: Call, action: Action, details: dict[str, str]) -> tuple[bool, bool]:
        """Return polkit's (is authorized, is challenge)."""
        subject = ("system-bus-name", {"name": GLib.Variant("s", call.sender)})
        where = (_POLKIT, "/org/freedesktop/PolicyKit1/Authority", f"{_POLKIT}.Authority")

        def args(flags: int) -> GLib.Variant:
            question = (subject, action.value, details, flags, "")
            return GLib.Variant("((sa{sv})sa{ss}us)", question)

        reply = await self._call(self._questions, where, "CheckAuthorization", args(0))
        is_authorized, is_challenge, _ = reply.unpack()[0]
        if not is_challenge or not call.is_interactive:
            return is_authorized, is_challenge
        if self._dialogs.total() >= _DIALOGS or self._dialogs[call.uid] >= _DIALOGS_OF_A_USER:
            raise PermissionDeniedError(
                f"{action} needs a password, and {self._dialogs[call.uid]} dialogs of this user"
                f" and {self._dialogs.total()} of all are open already; answer these, or call as"
                " root"
            )
        self._dialogs[call.uid] += 1
        try:
            reply = await call_bus(
                self._connection, where, "CheckAuthorization", args(_ALLOW_USER_INTERACTION),
                timeout_ms=GLib.MAXINT,
            )  # fmt: skip
        finally:
            self._dialogs[call.uid] -= 1
            self._dialogs += Counter()  # drops zeros
        is_authorized, is_challenge, _ = reply.unpack()[0]
        return is_authorized, is_challenge

    async def _call(
        self, turn: Turn, where: tuple[str, str, str], method: str, args: GLib.Variant
    ) -> GLib.Variant:
        await turn.take()
        try:
            return await call_bus(
                self._connection, where, method, args, timeout_ms=_WITHOUT_DIALOG_MS
            )
        finally:
            turn.give()

    async def _is_allowed_without(self, call: Call, action: Action) -> bool:
        if action is Action.INSPECT:
            return True
        return (await self.read_actor(call)).uid == 0

    async def read_actor(self, call: Call) -> Actor:
        """Return who called, as the bus knows it; ``CancelledError`` if the caller has gone."""
        sender = GLib.Variant("(s)", (call.sender,))
        try:
            reply = await self._call(self._bus_questions, DBUS, "GetConnectionCredentials", sender)
        except GLib.Error as e:
            raise CancelledError(f"{call.sender}: {text_of(e)}") from e
        known = reply.unpack()[0]
        pid = known.get("ProcessID", 0)
        return Actor(uid=known["UnixUserID"], pid=pid, unit=_read_unit(pid), via=Via.DBUS)

    async def is_waiting(self, call: Call) -> bool:
        """Return whether the caller is still on the bus, or does not wait for an answer."""
        if not call.wants_reply:
            return True
        sender = GLib.Variant("(s)", (call.sender,))
        reply = await self._call(self._bus_questions, DBUS, "NameHasOwner", sender)
        return bool(reply.unpack()[0])


def _read_unit(pid: int) -> str:
    """Return the systemd unit of a process; empty when it has none, or is not there any more."""
    try:
        group = Path(f"/proc/{pid}/cgroup").read_text().rpartition("::")[2].strip()
    except OSError:
        return ""  # the process has ended
    return unit_of(group)


def unit_of(group: str) -> str:
    """Return the unit that a cgroup is of, such as ``ssh.service`` or ``session-3.scope``.

    The first element that names a unit is the system's (systemd.unit(5), cgroups(7)).  What is
    below it belongs to a user, who names it as he likes: ``user@1000.service/ssh.service``.
    """
    units = [p for p in group.split("/") if p.endswith((".service", ".scope"))]
    return "/".join(units[:1] + units[1:][-1:])


async def call_bus(
    connection: Gio.DBusConnection,
    where: tuple[str, str, str],
    method: str,
    args: GLib.Variant,
    *,
    timeout_ms: int = -1,
) -> GLib.Variant:
    """Call a method of ``where`` (bus name, path, interface); raises ``GLib.Error``."""
    future: Future[GLib.Variant] = Future()

    def complete(_source: Gio.DBusConnection, result: Gio.AsyncResult) -> None:
        try:
            future.set_result(connection.call_finish(result))
        except GLib.Error as e:
            future.set_exception(e)

    flags = Gio.DBusCallFlags.NONE
    connection.call(*where, method, args, None, flags, timeout_ms, None, complete)
    return await Wait(future)
