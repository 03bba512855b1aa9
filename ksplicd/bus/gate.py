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
from collections.abc import Iterator
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
_POLKIT: Final = "org.freedesktop.PolicyKit1.Authority"
"""The interface of the one signal that does not come from the bus itself."""

_ANSWERS: Final = frozenset({Kind.RETURN, Kind.ERROR})
"""They come from those whom the daemon has asked: the bus and polkit."""


class _ClosedError(Exception):
    """One side has hung up."""


class _Message(NamedTuple):
    """A message from the bus."""

    header: Header
    data: bytearray
    """Empty when it is too long."""
    fds: list[int]
    size: int


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
            close(fds)
            self.size -= sent
            if sent < len(data):
                self._queue.appendleft((data[sent:], []))


class _FromBus:
    """What has come from the bus, cut into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0
        """Bytes to come of a message that nobody needs."""
        self._received = 0
        """Bytes so far, to know whose a descriptor is."""
        self._fds: deque[tuple[int, list[int]]] = deque()
        """With the end of the bytes that they came with."""

    def read(self, bus: socket.socket) -> bytes:
        """Return what has come, and keep the descriptors.  Raises ``_ClosedError``."""
        data, notes, _, _ = bus.recvmsg(_CHUNK, _FDS, socket.MSG_CMSG_CLOEXEC)
        self._received += len(data)
        for level, kind, packed in notes:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = struct.unpack(f"{len(packed) // 4}i", packed)
                self._fds.append((self._received, [*fds]))
        if not data:
            raise _ClosedError
        return data

    def cut(self, data: bytes) -> Iterator[_Message]:
        """Yield the messages that are whole now, and those that are too long as soon as known.

        These have no bytes.  What has no header that can be read is left out.
        """
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        self._buffer += memoryview(data)[skipped:]
        at = 0
        while len(self._buffer) - at >= FIXED_SIZE:
            left = len(self._buffer) - at
            header_size, size = sizes(self._buffer, at)
            header = None
            if header_size <= MAX_MESSAGE:
                if left < header_size:
                    break
                with contextlib.suppress(ValueError):  # a later bus may know more fields
                    header = read_header(self._buffer, at)
            is_answer = header is not None and header.kind in _ANSWERS
            if header is None or (size > MAX_MESSAGE and not is_answer):
                close(self._take_fds(at, size))
                self._skip = max(0, size - left)
                if header is not None:
                    yield _Message(header, bytearray(), [], size)
            elif left < size:
                break
            else:
                message = self._buffer[at : at + size]
                yield _Message(header, message, self._take_fds(at, size), size)
            at += min(left, size)
        del self._buffer[:at]

    def _take_fds(self, at: int, size: int) -> list[int]:
        """Return the descriptors of the message at ``at``.

        They come with its first bytes, and no other message begins after it in what is read at once
        then (unix(7): a read ends behind bytes that carry descriptors).
        """
        end = self._received - len(self._buffer) + at + size
        found = []
        while self._fds and self._fds[0][0] <= end:
            found += self._fds.popleft()[1]
        return found

    def close(self) -> None:
        """Close the descriptors that are left."""
        for _, fds in self._fds:
            close(fds)


class _ToBus(_Outbox):
    """What GDBus sends, and between its messages what the gate sends."""

    def __init__(self, bus: socket.socket, calls: "_Calls") -> None:
        super().__init__(bus)
        self._calls = calls
        self.has_begun = False
        """Whether the authentication is over."""
        self._buffer = bytearray()
        self._rest, self._is_kept_back = 0, False
        """Bytes to come of a message, and whether nobody waits for it."""
        self._own: list[bytes] = []
        self._serial = _OWN_SERIALS

    def send_own(self, kind: Kind, fields: dict[Field, str | int], argument: str) -> int:
        """Send a message of the gate's own; returns its serial."""
        self._serial = self._serial + 1 if self._serial < 0xFFFFFFFF else _OWN_SERIALS
        self._own.append(write(kind, self._serial, fields, argument))
        self._put_own()
        return self._serial

    def _put_own(self) -> None:
        if not self._rest:
            for message in self._own:
                self.put(message)
            self._own.clear()

    def relay(self, data: bytes) -> None:
        """Send what GDBus sends; no method answers with a descriptor."""
        self._buffer += data
        if not self.has_begun:
            self._relay_lines()
        while self._rest or (self.has_begun and self._look_at_answer()):
            part = self._buffer[: self._rest]
            if not part:
                return
            del self._buffer[: self._rest]
            self._rest -= len(part)
            if not self._is_kept_back:
                self.put(part)
            if not self._rest:
                self._is_kept_back = False
                self._put_own()

    def _relay_lines(self) -> None:
        """Let the lines of the authentication pass, to the end of the last one."""
        begin = self._buffer.find(_BEGIN)
        self.has_begun = begin >= 0
        if self.has_begun:
            self._rest = begin + len(_BEGIN)
        else:
            self._rest = self._buffer.rfind(b"\n") + 1

    def _look_at_answer(self) -> bool:
        """Count off the call that the next message answers; False: more bytes have to come."""
        if len(self._buffer) < FIXED_SIZE:
            return False
        header_size, size = sizes(self._buffer, 0)
        if len(self._buffer) < header_size:
            return False
        header = read_header(self._buffer, 0)
        if header.kind in _ANSWERS:
            key = header.text(Field.DESTINATION), header.number(Field.REPLY_SERIAL)
            self._is_kept_back = not self._calls.end(*key)
        self._rest = size
        return True


class _Calls:
    """The calls that are under way, by user."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], tuple[int, bool]] = {}
        """(caller, serial) → user, and whether an answer is waited for."""
        self._count: Counter[int] = Counter()
        self._pauses: dict[int, float] = {}

    def has_room(self, uid: int) -> bool:
        """Return whether a user may have another call."""
        now = time.monotonic()
        if uid and self._count[uid] >= CALLS_PER_USER:
            self._pauses[uid] = now + _PAUSE
        elif uid in self._pauses and now >= self._pauses[uid]:
            del self._pauses[uid]
        return uid not in self._pauses

    def begin(self, uid: int, caller: str, serial: int, *, wants_reply: bool) -> bool:
        """Count a call; False when one with this serial is under way."""
        if (caller, serial) in self._open:
            return False
        self._open[caller, serial] = uid, wants_reply
        self._count[uid] += 1
        return True

    def end(self, caller: str, serial: int) -> bool:
        """Count a call off; returns whether its answer is waited for."""
        uid, wants_reply = self._open.pop((caller, serial), (None, True))
        if uid is not None:
            self._count[uid] -= 1
            if not self._count[uid]:
                del self._count[uid]
        return wants_reply


class _Callers:
    """Whose the connections are, and the calls that wait until that is known."""

    def __init__(self) -> None:
        self.uids: dict[str, int] = {}
        self._held: dict[str, list[_Message]] = {}
        self._size = 0

    def hold(self, caller: str, call: _Message) -> bool:
        """Keep a call; False when there are too many."""
        held = self._held.get(caller, [])
        size = self._size + len(call.data)
        if len(held) >= _HELD_PER_CALLER or size > _HELD_BYTES:
            return False
        self._size = size
        self._held[caller] = [*held, call]
        return True

    def is_asked_about(self, caller: str) -> bool:
        """Return whether calls of a connection wait."""
        return caller in self._held

    def learn(self, caller: str, uid: int | None) -> list[_Message]:
        """Return the calls that waited; ``uid`` is None for a caller who has gone."""
        if uid is not None:
            if len(self.uids) >= _CALLERS:
                del self.uids[next(iter(self.uids))]
            self.uids[caller] = uid
        calls = self._held.pop(caller)
        self._size -= sum(len(call.data) for call in calls)
        return calls


class Gate:
    """Relays between the bus and ``end``, in a thread of its own, until one side closes."""

    def __init__(self, bus: socket.socket) -> None:
        """``bus`` is connected, and nothing was sent on it."""
        self.end, self._inner = socket.socketpair()
        self._bus = bus
        for each in (self._bus, self._inner):
            each.settimeout(0)
        self._calls, self._callers = _Calls(), _Callers()
        self._from_bus, self._to_bus = _FromBus(), _ToBus(bus, self._calls)
        self._to_inner = _Outbox(self._inner)
        self._asked: dict[int, str] = {}
        """Serial → the caller whose user was asked for."""
        self._refused, self._next_report = 0, 0.0
        self._thread = threading.Thread(target=self._run, name="ksplicd-gate", daemon=True)
        self._thread.start()

    def uid_of(self, caller: str) -> int | None:
        """Return the user of a connection to the bus; None when it is not known (any more)."""
        return self._callers.uids.get(caller)

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
        data = self._inner.recv(_CHUNK)
        if not data:
            raise _ClosedError
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
            elif header.kind in _ANSWERS and header.number(Field.REPLY_SERIAL) in self._asked:
                self._learn(message)
            elif message.data and (header.kind in _ANSWERS or _is_heard(header)):
                self._to_inner.put(message.data, message.fds)
            else:
                close(message.fds)

    # --- calls ----------------------------------------------------------------------------------

    def _take_call(self, call: _Message) -> None:
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

    def _admit(self, uid: int, call: _Message) -> None:
        """Pass a call on to GDBus, if its user has not too many under way."""
        header, caller = call.header, call.header.text(Field.SENDER)
        wants_reply = not header.flags & Flag.NO_REPLY_EXPECTED
        if not self._calls.has_room(uid):
            why = f"user {uid} has {CALLS_PER_USER} calls under way, or had; wait for the answers"
            self._refuse(call, _LIMITS_EXCEEDED, why)
        elif not self._calls.begin(uid, caller, header.serial, wants_reply=wants_reply):
            self._refuse(call, _INVALID_ARGS, f"serial {header.serial} is of a call under way")
        else:
            others = header.flags & ~int(Flag.NO_REPLY_EXPECTED | Flag.NO_AUTO_START)
            call.data[2] = others if wants_reply else others | Flag.NO_AUTO_START
            self._to_inner.put(call.data, call.fds)

    def _refuse(self, call: _Message, error: str, why: str) -> None:
        """Answer a call that is not passed on, and report that once in a while."""
        close(call.fds)
        header, caller = call.header, call.header.text(Field.SENDER)
        self._refused += 1
        now = time.monotonic()
        if now >= self._next_report:
            self._next_report = now + _REPORT_SECONDS
            uid = self._callers.uids.get(caller)
            who = caller if uid is None else f"{caller} (user {uid})"
            _log.warning("%d calls refused, the last one by %s: %s", self._refused, who, why)
            self._refused = 0
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

    def _learn(self, answer: _Message) -> None:
        """Pass on the calls of a caller whose user is known now; drop those of one who has gone."""
        header, uid = answer.header, None
        caller = self._asked.pop(header.number(Field.REPLY_SERIAL))
        if header.kind == Kind.RETURN:
            (uid,) = struct.unpack_from(header.order + "I", answer.data, header.size)
        for call in self._callers.learn(caller, uid):
            if uid is None:
                close(call.fds)
            else:
                self._admit(uid, call)


def _is_heard(signal: Header) -> bool:
    """Return whether a signal is for GDBus: anybody may send any signal to anybody."""
    if signal.text(Field.INTERFACE) == names.DBUS:
        return signal.text(Field.SENDER) == names.DBUS  # the bus writes who has sent it
    return signal.text(Field.INTERFACE) == _POLKIT


def close(fds: list[int]) -> None:
    """Close descriptors, each once."""
    while fds:
        os.close(fds.pop())
