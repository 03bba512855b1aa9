# SPDX-License-Identifier: GPL-2.0-only
"""Between the bus and GDBus: what is too large, or too much, never reaches the daemon.

::

    bus ◂─────▸ gate (a thread) ◂─────▸ GDBus ─▸ wrapper

GDBus reads and unpacks every message, whatever its size, and keeps all calls until they are
answered.  So each user of the host could fill the daemon's memory, and let root wait.  The gate
reads headers: a call that is too long is not even read to its end, descriptors that no method takes
are closed, and a user has a few calls under way at a time.  Root has as many as it likes.  The
bus says which user a caller is, once for each connection.

A call counts until its answer has passed the gate.  For this the gate has each call answered, and
keeps back the answers that nobody waits for; to GDBus's side such a call carries the flag "no auto
start" instead, which means nothing to a receiver.
"""

import contextlib
import logging
import os
import select
import socket
import struct
import threading
import time
from collections import Counter, deque
from typing import Final, NamedTuple

from ksplicd.bus import names
from ksplicd.bus.message import FIXED_SIZE, Field, Flag, Header, Kind, read_header, sizes, write

_log = logging.getLogger(__name__)

MAX_MESSAGE: Final = 64 << 10
"""Bytes of a call or signal.  The longest legal one carries a signature (``MAX_SIGNATURE_SIZE``);
a bundle comes as a descriptor."""
CALLS_PER_USER: Final = 16
"""Calls of one user that are under way; root has no limit."""
_PAUSE: Final = 1.0
"""Seconds for which a user who had too many may have no more: answers cost more than refusals."""
_TAKES_FD: Final = "Stage"
"""The one method that takes a descriptor."""

_HELD_PER_CALLER: Final = 16
_HELD_BYTES: Final = 8 << 20
"""Messages that wait until the bus has said whose they are."""
_CALLERS: Final = 4096
"""Connections whose users are remembered."""
_OWN_SERIALS: Final = 0xF0000000
"""The gate's own messages begin here; GDBus counts from 1."""
_CHUNK: Final = 256 << 10
_FDS: Final = socket.CMSG_SPACE(253 * 4)  # SCM_MAX_FD, include/net/scm.h
_FULL: Final = 1 << 20
"""Bytes that wait for one side before no more are read from the other one."""
_REPORT_SECONDS: Final = 60.0
_LAST_SECONDS: Final = 1.0
"""For what is left when GDBus has hung up."""

_BEGIN: Final = b"BEGIN\r\n"
"""The last line of the authentication, sent by the client; messages follow."""
_LIMITS_EXCEEDED: Final = f"{names.DBUS}.Error.LimitsExceeded"
_INVALID_ARGS: Final = f"{names.DBUS}.Error.InvalidArgs"
_SIGNALS_OF: Final = {names.DBUS, "org.freedesktop.PolicyKit1.Authority"}
"""Interfaces; anybody may send any signal to anybody."""


class _ClosedError(Exception):
    """One side has hung up."""


class _Call(NamedTuple):
    """A call that waits."""

    header: Header
    message: bytearray
    fds: list[int]


class _Outbox:
    """What is to be sent to one side."""

    def __init__(self, to: socket.socket) -> None:
        self._to = to
        self._queue: deque[tuple[memoryview, list[int]]] = deque()
        self.size = 0

    def put(self, data: bytes | bytearray, fds: list[int] | None = None) -> None:
        """Send ``data``, and the descriptors with its first byte, now or later."""
        self.size += len(data)
        self._queue.append((memoryview(data), fds or []))
        self.send()

    def send(self) -> None:
        """Send what can be sent now."""
        while self._queue:
            data, fds = self._queue.popleft()
            try:
                sent = socket.send_fds(self._to, [data], fds) if fds else self._to.send(data)
            except BlockingIOError:
                self._queue.appendleft((data, fds))
                return
            _close(fds)
            self.size -= sent
            if sent < len(data):
                self._queue.appendleft((data[sent:], []))


class Gate:
    """Relays between the bus and ``end``, in a thread of its own, until one side closes."""

    def __init__(self, bus: socket.socket) -> None:
        """``bus`` is connected, and nothing was sent on it."""
        self.end, self._inner = socket.socketpair()
        self._bus = bus
        for each in (self._bus, self._inner):
            each.settimeout(0)
        self._to_bus, self._to_inner = _Outbox(self._bus), _Outbox(self._inner)
        self._has_begun = False
        self._from_bus, self._from_inner = bytearray(), bytearray()
        self._skip = 0
        """Bytes to come of a message that is refused."""
        self._rest, self._is_kept_back = 0, False
        """Bytes to come of an outgoing message, and whether nobody waits for it."""
        self._received = 0
        """Bytes so far, to know whose a descriptor is."""
        self._fds: deque[tuple[int, list[int]]] = deque()
        """With the end of the bytes that they came with."""
        self._own: list[bytes] = []
        """The gate's own messages, to be sent between GDBus's."""
        self._serial = _OWN_SERIALS
        self._uids: dict[str, int] = {}
        self._asked: dict[int, str] = {}
        """Serial → the caller whose user was asked for."""
        self._held: dict[str, list[_Call]] = {}
        self._held_bytes = 0
        self._open: dict[tuple[str, int], tuple[int, bool]] = {}
        """(caller, serial) → user, and whether an answer is waited for."""
        self._calls: Counter[int] = Counter()
        self._pauses: dict[int, float] = {}
        self._refused, self._next_report = 0, 0.0
        self._thread = threading.Thread(target=self._run, name="ksplicd-gate", daemon=True)
        self._thread.start()

    def uid_of(self, caller: str) -> int | None:
        """Return the user of a connection to the bus; None when it is not known (any more)."""
        return self._uids.get(caller)

    def join(self, seconds: float) -> None:
        """Wait until everything has passed, after ``end`` was closed."""
        self._thread.join(seconds)

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                self._wait()
        except (_ClosedError, OSError):
            pass  # GDBus notices that its side is closed
        except ValueError as e:
            _log.critical("the bus sends what is not D-Bus: %s", e)
        self._inner.close()
        with contextlib.suppress(OSError):
            self._bus.settimeout(_LAST_SECONDS)
            self._to_bus.send()
        self._bus.close()
        for _, fds in self._fds:
            _close(fds)

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

    # --- from the bus ---------------------------------------------------------------------------

    def _read_bus(self) -> None:
        data, notes, _, _ = self._bus.recvmsg(_CHUNK, _FDS, socket.MSG_CMSG_CLOEXEC)
        self._received += len(data)
        for level, kind, packed in notes:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = struct.unpack(f"{len(packed) // 4}i", packed)
                self._fds.append((self._received, [*fds]))
        if not data:
            raise _ClosedError
        if not self._has_begun:
            self._to_inner.put(data)
            return
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        self._from_bus += memoryview(data)[skipped:]
        at = 0
        while (taken := self._take(at)) > 0:
            at += taken
        del self._from_bus[:at]

    def _take(self, at: int) -> int:
        """Deal with the message that begins at ``at``; returns its bytes, 0: more have to come."""
        buffer, left = self._from_bus, len(self._from_bus) - at
        if left < FIXED_SIZE:
            return 0
        header_size, size = sizes(buffer, at)
        if header_size > MAX_MESSAGE:  # nobody sends that by mistake: there is no answer
            return self._skip_message(at, size)
        if left < header_size:
            return 0
        try:
            header = read_header(buffer, at)
        except ValueError:  # a later version of the bus may know more fields
            return self._skip_message(at, size)
        is_answer = header.kind in {Kind.RETURN, Kind.ERROR}
        if size > MAX_MESSAGE and not is_answer:
            if header.kind == Kind.CALL:
                why = f"a message has at most {MAX_MESSAGE} bytes here, and this one has {size}"
                self._refuse(header, _LIMITS_EXCEEDED, why)
            return self._skip_message(at, size)
        if left < size:
            return 0
        message, fds = buffer[at : at + size], self._take_fds(at, size)
        if header.kind == Kind.CALL:
            self._take_call(_Call(header, message, fds))
        elif is_answer and header.number(Field.REPLY_SERIAL) in self._asked:
            self._learn(header, message)
        elif is_answer or header.text(Field.INTERFACE) in _SIGNALS_OF:
            self._to_inner.put(message, fds)
        else:
            _close(fds)
        return size

    def _skip_message(self, at: int, size: int) -> int:
        _close(self._take_fds(at, size))
        left = len(self._from_bus) - at
        self._skip = max(0, size - left)
        return min(left, size)

    def _take_fds(self, at: int, size: int) -> list[int]:
        """Return the descriptors of the message at ``at``.

        They come with its first bytes, and no other message begins after it in what is read at once
        then (unix(7): a read ends behind bytes that carry descriptors).
        """
        end = self._received - len(self._from_bus) + at + size
        found = []
        while self._fds and self._fds[0][0] <= end:
            found += self._fds.popleft()[1]
        return found

    def _take_call(self, call: _Call) -> None:
        header, caller = call.header, call.header.text(Field.SENDER)
        fds = header.number(Field.UNIX_FDS)
        if fds > 1 or (fds and header.text(Field.MEMBER) != _TAKES_FD):
            why = f"{fds} descriptors in a message: {_TAKES_FD} takes one, and no other method does"
            self._refuse_call(call, _INVALID_ARGS, why)
        elif fds != len(call.fds):
            self._refuse_call(call, _LIMITS_EXCEEDED, "no descriptor is free; try again")
        elif (uid := self._uids.get(caller)) is not None:
            self._admit(uid, call)
        elif (
            len(self._held.get(caller, ())) >= _HELD_PER_CALLER
            or self._held_bytes + len(call.message) > _HELD_BYTES
        ):
            self._refuse_call(call, _LIMITS_EXCEEDED, "too many calls at once; try again")
        else:
            self._held_bytes += len(call.message)
            self._held.setdefault(caller, []).append(call)
            if len(self._held[caller]) == 1:
                self._ask_for_user(caller)

    def _admit(self, uid: int, call: _Call) -> None:
        """Pass a call on to GDBus, if its user has not too many under way."""
        header, caller = call.header, call.header.text(Field.SENDER)
        if uid and not self._has_room(uid):
            why = f"user {uid} has {CALLS_PER_USER} calls under way, or had; wait for the answers"
            self._refuse_call(call, _LIMITS_EXCEEDED, why)
        elif (caller, header.serial) in self._open:
            self._refuse_call(call, _INVALID_ARGS, f"serial {header.serial} is of a call under way")
        else:
            self._calls[uid] += 1
            wants_reply = not header.flags & Flag.NO_REPLY_EXPECTED
            self._open[caller, header.serial] = uid, wants_reply
            others = header.flags & ~int(Flag.NO_REPLY_EXPECTED | Flag.NO_AUTO_START)
            call.message[2] = others if wants_reply else others | Flag.NO_AUTO_START
            self._to_inner.put(call.message, call.fds)

    def _has_room(self, uid: int) -> bool:
        now = time.monotonic()
        if self._calls[uid] >= CALLS_PER_USER:
            self._pauses[uid] = now + _PAUSE
        elif uid in self._pauses and now >= self._pauses[uid]:
            del self._pauses[uid]
        return uid not in self._pauses

    def _refuse_call(self, call: _Call, error: str, why: str) -> None:
        _close(call.fds)
        self._refuse(call.header, error, why)

    def _refuse(self, header: Header, error: str, why: str) -> None:
        """Answer a call that is not passed on, and report that once in a while."""
        self._refused += 1
        now = time.monotonic()
        if now >= self._next_report:
            self._next_report = now + _REPORT_SECONDS
            caller = header.text(Field.SENDER)
            uid = self._uids.get(caller)
            who = caller if uid is None else f"{caller} (user {uid})"
            _log.warning("%d calls refused, the last one by %s: %s", self._refused, who, why)
            self._refused = 0
        if not header.flags & Flag.NO_REPLY_EXPECTED and self._to_bus.size < _FULL:
            fields: dict[Field, str | int] = {
                Field.ERROR_NAME: error,
                Field.REPLY_SERIAL: header.serial,
                Field.DESTINATION: header.text(Field.SENDER),
            }
            self._send(Kind.ERROR, fields, why)

    # --- whose calls they are -------------------------------------------------------------------

    def _ask_for_user(self, caller: str) -> None:
        fields: dict[Field, str | int] = {
            Field.PATH: "/org/freedesktop/DBus",
            Field.INTERFACE: names.DBUS,
            Field.MEMBER: "GetConnectionUnixUser",
            Field.DESTINATION: names.DBUS,
        }
        self._asked[self._send(Kind.CALL, fields, caller)] = caller

    def _learn(self, header: Header, message: bytearray) -> None:
        """Read whose calls were held, and pass them on; drop those of a caller who has gone."""
        caller = self._asked.pop(header.number(Field.REPLY_SERIAL))
        calls = self._held.pop(caller)
        self._held_bytes -= sum(len(call.message) for call in calls)
        if header.kind == Kind.ERROR:
            for call in calls:
                _close(call.fds)
            return
        (uid,) = struct.unpack_from(header.order + "I", message, header.size)
        if len(self._uids) >= _CALLERS:
            del self._uids[next(iter(self._uids))]
        self._uids[caller] = uid
        for call in calls:
            self._admit(uid, call)

    # --- to the bus -----------------------------------------------------------------------------

    def _send(self, kind: Kind, fields: dict[Field, str | int], argument: str) -> int:
        """Send a message of the gate's own; returns its serial."""
        self._serial = self._serial + 1 if self._serial < 0xFFFFFFFF else _OWN_SERIALS
        self._own.append(write(kind, self._serial, fields, argument))
        self._send_own()
        return self._serial

    def _send_own(self) -> None:
        if not self._rest:
            for message in self._own:
                self._to_bus.put(message)
            self._own.clear()

    def _read_inner(self) -> None:
        """Relay what GDBus sends; no method answers with a descriptor."""
        data = self._inner.recv(_CHUNK)
        if not data:
            raise _ClosedError
        self._from_inner += data
        if not self._has_begun:
            line_end = self._from_inner.find(_BEGIN)
            if line_end >= 0:
                self._has_begun = True
                self._rest = line_end + len(_BEGIN)
            else:  # the end of a line may be the beginning of that one
                self._rest = max(0, len(self._from_inner) - len(_BEGIN) + 1)
                if self._from_inner.endswith(b"\n"):
                    self._rest = len(self._from_inner)
        while self._from_inner:
            if not self._rest and (not self._has_begun or not self._look_at_answer()):
                return
            part = self._from_inner[: self._rest]
            del self._from_inner[: self._rest]
            self._rest -= len(part)
            if not self._is_kept_back:
                self._to_bus.put(part)
            if not self._rest:
                self._is_kept_back = False
                self._send_own()

    def _look_at_answer(self) -> bool:
        """Count off the call that the next message answers; False: more bytes have to come."""
        if len(self._from_inner) < FIXED_SIZE:
            return False
        header_size, self._rest = sizes(self._from_inner, 0)
        if len(self._from_inner) < header_size:
            self._rest = 0
            return False
        header = read_header(self._from_inner, 0)
        if header.kind in {Kind.RETURN, Kind.ERROR}:
            key = header.text(Field.DESTINATION), header.number(Field.REPLY_SERIAL)
            if key in self._open:
                uid, wants_reply = self._open.pop(key)
                self._is_kept_back = not wants_reply
                self._calls[uid] -= 1
                if not self._calls[uid]:
                    del self._calls[uid]
        return True


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
