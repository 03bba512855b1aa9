# SPDX-License-Identifier: GPL-2.0-only
"""What comes from the bus, cut into messages; nothing but their headers is read.

A message that is too long is not kept: it is told as soon as its header is there.
"""

import contextlib
import socket
import struct
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from ksplicd.bus.descriptors import Closer
from ksplicd.bus.message import ANSWERS, FIXED_SIZE, Header, read_header, sizes

MAX_MESSAGE: Final = 64 << 10
"""Bytes of a call or signal.  The longest legal one carries a signature (``MAX_SIGNATURE_SIZE``);
a bundle comes as a descriptor."""
CHUNK: Final = 256 << 10
"""Bytes that are read at once."""
_FDS: Final = socket.CMSG_SPACE(253 * 4)  # SCM_MAX_FD, include/net/scm.h


class ClosedError(Exception):
    """One side has hung up."""


class Message(NamedTuple):
    """A message from the bus."""

    header: Header
    data: bytearray
    """Empty when it is too long."""
    fds: list[int]
    size: int


class FromBus:
    """What has come from the bus, cut into messages."""

    def __init__(self, closer: Closer) -> None:
        """``closer`` closes the descriptors of what is not kept."""
        self._closer = closer
        self._buffer = bytearray()
        self._skip = 0
        """Bytes to come of a message that nobody needs."""
        self._received = 0
        """Bytes so far, to know whose a descriptor is."""
        self._fds: deque[tuple[int, list[int]]] = deque()
        """With the end of the bytes that they came with."""

    def read(self, bus: socket.socket) -> bytes:
        """Return what has come, and keep the descriptors.  Raises ``ClosedError``.

        Without room for them the kernel drops them, which waits for nobody.
        """
        room = _FDS if self._closer.has_room else 0
        data, notes, _, _ = bus.recvmsg(CHUNK, room, socket.MSG_CMSG_CLOEXEC)
        self._received += len(data)
        for level, kind, packed in notes:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = struct.unpack(f"{len(packed) // 4}i", packed)
                self._fds.append((self._received, [*fds]))
        if not data:
            raise ClosedError
        return data

    def cut(self, data: bytes) -> Iterator[Message]:
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
            is_answer = header is not None and header.kind in ANSWERS
            if header is None or (size > MAX_MESSAGE and not is_answer):
                self._closer.close(self._take_fds(at, size))
                self._skip = max(0, size - left)
                if header is not None:
                    yield Message(header, bytearray(), [], size)
            elif left < size:
                break
            else:
                message = self._buffer[at : at + size]
                yield Message(header, message, self._take_fds(at, size), size)
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
            self._closer.close(fds)
