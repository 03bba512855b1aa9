# SPDX-License-Identifier: GPL-2.0-only
"""Between the bus and GDBus: what is too large, or too much, never reaches the daemon.

::

    bus ◂─────▸ gate (a thread) ◂─────▸ GDBus ─▸ wrapper

GDBus reads and unpacks every message, whatever its size, and keeps all calls until they are
answered.  So each user of the host could fill the daemon's memory, and let root wait.  The gate
reads headers: a call that is too long is not even read to its end, descriptors that no method takes
are closed, and a user has a few calls under way at a time.  Root has as many as it likes.  The
bus says which user a caller is, once for each connection.

A descriptor has to be of a file whose reading and closing nobody can hold up (``descriptors``).

A call counts until its answer has passed the gate.  For this the gate has each call answered, and
keeps back the answers that nobody waits for; to GDBus's side such a call carries the flag "no auto
start" instead, which means nothing to a receiver.
"""

import contextlib
import logging
import select
import socket
import struct
import threading
import time
from typing import Final

from ksplicd.bus import names
from ksplicd.bus.callers import Callers
from ksplicd.bus.calls_under_way import CALLS_PER_USER, Calls
from ksplicd.bus.descriptors import Closer, why_unreadable
from ksplicd.bus.incoming import CHUNK, MAX_MESSAGE, ClosedError, FromBus, Message
from ksplicd.bus.message import ANSWERS, Field, Flag, Header, Kind
from ksplicd.bus.outbox import Outbox
from ksplicd.bus.outgoing import ToBus
from ksplicd.errors import BadBundleError

_log = logging.getLogger(__name__)

_TAKES_FD: Final = "Stage"
"""The one method that takes a descriptor."""
_FULL: Final = 1 << 20
"""Bytes that wait for one side before no more are read from the other one."""
_REPORT_SECONDS: Final = 60.0
_LAST_SECONDS: Final = 1.0
"""For what is left when GDBus has hung up."""

_LIMITS_EXCEEDED: Final = f"{names.DBUS}.Error.LimitsExceeded"
_INVALID_ARGS: Final = f"{names.DBUS}.Error.InvalidArgs"
_FAILED: Final = f"{names.DBUS}.Error.Failed"
_HAS_GONE: Final = f"{names.DBUS}.Error.NameHasNoOwner"
_POLKIT: Final = "org.freedesktop.PolicyKit1.Authority"
"""The interface of the one signal that does not come from the bus itself."""


class _Refusals:
    """Calls that were refused, reported once in a while."""

    def __init__(self) -> None:
        self._count, self._next_report = 0, 0.0

    def add(self, caller: str, uid: int | None, why: str) -> None:
        """Count a refused call of ``caller``, whose user may not be known."""
        self._count += 1
        now = time.monotonic()
        if now >= self._next_report:
            self._next_report = now + _REPORT_SECONDS
            who = caller if uid is None else f"{caller} (user {uid})"
            _log.warning("%d calls refused, the last one by %s: %s", self._count, who, why)
            self._count = 0


class Gate:
    """Relays between the bus and ``end``, in a thread of its own, until one side closes."""

    def __init__(self, bus: socket.socket) -> None:
        """``bus`` is connected, and nothing was sent on it."""
        self.end, self._inner = socket.socketpair()
        self._bus = bus
        for each in (self._bus, self._inner):
            each.settimeout(0)
        self._calls, self._callers = Calls(), Callers()
        self._closer = Closer()
        self._from_bus, self._to_bus = FromBus(self._closer), ToBus(bus, self._calls)
        self._to_inner = Outbox(self._inner)
        self._asked: dict[int, str] = {}
        """Serial → the caller whose user was asked for."""
        self._refusals = _Refusals()
        self._thread = threading.Thread(target=self._run, name="ksplicd-gate", daemon=True)
        self._thread.start()

    def uid_of(self, caller: str) -> int | None:
        """Return the user of a connection to the bus; None when it is not known (any more)."""
        return self._callers.uids.get(caller)

    def hear_polkit(self, connection: str) -> None:
        """Take signals of this connection for polkit's; empty: of none."""
        self._callers.polkit = connection

    def join(self, seconds: float) -> None:
        """Wait until everything has passed, after ``end`` was closed."""
        self._thread.join(seconds)

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                self._wait()
        except (ClosedError, OSError):
            pass  # GDBus notices that its side is closed
        except Exception:  # the daemon ends, and is started again, rather than wait for nothing
            _log.critical("what comes from the bus cannot be relayed", exc_info=True)
        self._inner.close()
        with contextlib.suppress(OSError):
            self._bus.settimeout(_LAST_SECONDS)
            self._to_bus.send()
        self._bus.close()
        self._from_bus.close()

    def _wait(self) -> None:
        poll = select.poll()
        for own, out, back in (
            (self._bus, self._to_bus, self._to_inner),
            (self._inner, self._to_inner, self._to_bus),
        ):
            events = select.POLLOUT if out.size else 0
            poll.register(own, events | (select.POLLIN if back.size < _FULL else 0))
        for fd, event in poll.poll():
            is_bus = fd == self._bus.fileno()
            if event & select.POLLOUT:
                (self._to_bus if is_bus else self._to_inner).send()
            if event & ~select.POLLOUT:
                self._read_bus() if is_bus else self._read_inner()

    def _read_inner(self) -> None:
        data = self._inner.recv(CHUNK)
        if not data:
            raise ClosedError
        self._to_bus.relay(data)

    def _read_bus(self) -> None:
        data = self._from_bus.read(self._bus)
        if not self._to_bus.has_begun:
            self._to_inner.put(data)
            return
        for message in self._from_bus.cut(data):
            header = message.header
            if header.kind == Kind.CALL:
                self._take_call(message)
            elif header.kind in ANSWERS and header.number(Field.REPLY_SERIAL) in self._asked:
                self._learn(message)
            elif message.data and (header.kind in ANSWERS or self._is_heard(header)):
                self._to_inner.put(message.data, message.fds)
            else:
                self._closer.close(message.fds)

    def _is_heard(self, signal: Header) -> bool:
        """Return whether a signal is for GDBus: anybody may send any signal to anybody.

        The bus writes who has sent it, by unique name; GDBus, which is told polkit's well-known
        name, takes it from everybody before GLib 2.74.7 (CVE-2024-34397).
        """
        if signal.number(Field.UNIX_FDS):
            return False
        if signal.text(Field.INTERFACE) == names.DBUS:
            return signal.text(Field.SENDER) == names.DBUS
        polkit = self._callers.polkit
        is_polkits = bool(polkit) and signal.text(Field.SENDER) == polkit
        return is_polkits and signal.text(Field.INTERFACE) == _POLKIT

    # --- calls ----------------------------------------------------------------------------------

    def _take_call(self, call: Message) -> None:
        header, caller = call.header, call.header.text(Field.SENDER)
        fds = header.number(Field.UNIX_FDS)
        if not call.data:
            why = f"a message has at most {MAX_MESSAGE} bytes here, and this one has {call.size}"
            self._refuse(call, _INVALID_ARGS, why)
        elif fds > 1 or (fds and header.text(Field.MEMBER) != _TAKES_FD):
            why = f"{fds} descriptors in a message: {_TAKES_FD} takes one, and no other method does"
            self._refuse(call, _INVALID_ARGS, why)
        elif fds != len(call.fds):
            self._refuse(call, _LIMITS_EXCEEDED, "no descriptor is free; try again")
        elif (uid := self._callers.uids.get(caller)) is not None:
            self._admit(uid, call)
        else:
            is_first = not self._callers.is_asked_about(caller)
            if not self._callers.hold(caller, call):
                self._refuse(call, _LIMITS_EXCEEDED, "too many calls at once; try again")
            elif is_first:
                self._ask_for_user(caller)

    def _admit(self, uid: int, call: Message) -> None:
        """Pass a call on to GDBus, if its user has not too many under way."""
        header, caller = call.header, call.header.text(Field.SENDER)
        wants_reply = not header.flags & Flag.NO_REPLY_EXPECTED
        if not self._calls.has_room(uid):
            why = f"user {uid} has {CALLS_PER_USER} calls under way, or had; wait for the answers"
            self._refuse(call, _LIMITS_EXCEEDED, why)
        elif not self._calls.begin(uid, caller, header.serial, wants_reply=wants_reply):
            self._refuse(call, _INVALID_ARGS, f"serial {header.serial} is of a call under way")
        elif why := "".join(why_unreadable(fd) for fd in call.fds):
            self._calls.end(caller, header.serial)
            self._refuse(call, BadBundleError.dbus_name(), why)
        else:
            others = header.flags & ~int(Flag.NO_REPLY_EXPECTED | Flag.NO_AUTO_START)
            call.data[2] = others if wants_reply else others | Flag.NO_AUTO_START
            self._to_inner.put(call.data, call.fds, lambda: self._take_back(call))

    def _take_back(self, call: Message) -> None:
        """Answer a call that cannot be passed on because of its descriptor."""
        self._calls.end(call.header.text(Field.SENDER), call.header.serial)
        self._refuse(call, _LIMITS_EXCEEDED, "too many descriptors are on their way; try again")

    def _refuse(self, call: Message, error: str, why: str) -> None:
        """Answer a call that is not passed on."""
        self._closer.close(call.fds)
        header, caller = call.header, call.header.text(Field.SENDER)
        self._refusals.add(caller, self._callers.uids.get(caller), why)
        if not header.flags & Flag.NO_REPLY_EXPECTED and self._to_bus.size < _FULL:
            fields: dict[Field, str | int] = {
                Field.ERROR_NAME: error,
                Field.REPLY_SERIAL: header.serial,
                Field.DESTINATION: caller,
            }
            self._to_bus.send_own(Kind.ERROR, fields, why)

    # --- whose calls they are -------------------------------------------------------------------

    def _ask_for_user(self, caller: str) -> None:
        fields: dict[Field, str | int] = {
            Field.PATH: "/org/freedesktop/DBus",
            Field.INTERFACE: names.DBUS,
            Field.MEMBER: "GetConnectionUnixUser",
            Field.DESTINATION: names.DBUS,
        }
        self._asked[self._to_bus.send_own(Kind.CALL, fields, caller)] = caller

    def _learn(self, answer: Message) -> None:
        """Pass on the calls of a caller whose user is known now.

        Those of one who has gone are dropped.  When the bus does not say for another reason, they
        are answered.
        """
        header, uid = answer.header, None
        error = header.text(Field.ERROR_NAME)
        caller = self._asked.pop(header.number(Field.REPLY_SERIAL))
        if header.kind == Kind.RETURN:
            (uid,) = struct.unpack_from(header.order + "I", answer.data, header.size)
        for call in self._callers.learn(caller, uid):
            if uid is not None:
                self._admit(uid, call)
            elif error == _HAS_GONE:
                self._closer.close(call.fds)
            else:
                why = f"the bus does not say which user {caller} is: {error}; try again"
                self._refuse(call, _FAILED, why)
