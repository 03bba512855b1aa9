# SPDX-License-Identifier: GPL-2.0-only
"""What is to be sent to one side of the gate, and has not gone yet."""

import os
import socket
from collections import deque


class Outbox:
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


def close(fds: list[int]) -> None:
    """Close descriptors, each once."""
    while fds:
        os.close(fds.pop())
