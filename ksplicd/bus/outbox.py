# SPDX-License-Identifier: GPL-2.0-only
"""What is to be sent to one side of the gate, and has not gone yet."""

import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

_UNSENDABLE: Final = frozenset({errno.ETOOMANYREFS})
"""Too many descriptors of this user are on their way already (unix(7))."""


class _Part(NamedTuple):
    """Bytes, and the descriptors that go with the first of them."""

    data: memoryview
    fds: list[int]
    give_back: Callable[[], None] | None


class Outbox:
    """What is to be sent to one side."""

    def __init__(self, to: socket.socket) -> None:
        self._to = to
        self._queue: deque[_Part] = deque()
        self.size = 0

    def put(
        self,
        data: bytes | bytearray,
        fds: list[int] | None = None,
        give_back: Callable[[], None] | None = None,
    ) -> None:
        """Send ``data``, and the descriptors with its first byte, now or later.

        ``give_back`` is called when nothing of it can be sent because of the descriptors; it has to
        close them.
        """
        self.size += len(data)
        self._queue.append(_Part(memoryview(data), fds or [], give_back))
        self.send()

    def send(self) -> None:
        """Send what can be sent now."""
        while self._queue:
            part = self._queue.popleft()
            data, fds, give_back = part
            try:
                sent = socket.send_fds(self._to, [data], fds) if fds else self._to.send(data)
            except BlockingIOError:
                self._queue.appendleft(part)
                return
            except OSError as e:
                if e.errno not in _UNSENDABLE or give_back is None:
                    raise
                self.size -= len(data)
                give_back()
                continue
            close(fds)
            self.size -= sent
            if sent < len(data):
                self._queue.appendleft(_Part(data[sent:], [], None))


def close(fds: list[int]) -> None:
    """Close descriptors, each once."""
    while fds:
        os.close(fds.pop())
