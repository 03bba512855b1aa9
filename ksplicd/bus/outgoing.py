# SPDX-License-Identifier: GPL-2.0-only
"""What GDBus sends to the bus, and between its messages what the gate sends itself."""

import socket
from typing import Final

from ksplicd.bus.calls_under_way import Calls
from ksplicd.bus.message import (
    ANSWERS,
    FIXED_SIZE,
    Field,
    Kind,
    read_header,
    sizes,
    write,
)
from ksplicd.bus.outbox import Outbox

_OWN_SERIALS: Final = 0xF0000000
"""The gate's own messages begin here; GDBus counts from 1."""
_BEGIN: Final = b"BEGIN\r\n"
"""The last line of the authentication, sent by the client; messages follow."""


class ToBus(Outbox):
    """What GDBus sends, and between its messages what the gate sends."""

    def __init__(self, bus: socket.socket, calls: Calls) -> None:
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
        if header.kind in ANSWERS:
            key = header.text(Field.DESTINATION), header.number(Field.REPLY_SERIAL)
            self._is_kept_back = not self._calls.end(*key)
        self._rest = size
        return True
