# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's control socket: one JSON object a line, answers and events mixed.

Protocol: docs/interop/qmp-spec.txt of QEMU.  Only what the lab needs; no thread.
"""

import contextlib
import json
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from ksplicd.errors import LabError

_CHUNK: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that QEMU reports without being asked, such as ``SHUTDOWN``."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)


class Qmp:
    """A connected control socket.  Raises ``LabError`` when QEMU refuses a command or is gone."""

    def __init__(self, connection: socket.socket, *, timeout: float = 60) -> None:
        self._socket: Final = connection
        self._timeout: Final = timeout
        self._received = b""
        self._events: deque[Event] = deque()
        greeting = self._read_object(time.monotonic() + timeout)
        if "QMP" not in greeting:
            raise LabError(f"QEMU's control socket greets with {greeting!r}, not with QMP")
        self.command("qmp_capabilities")

    def fileno(self) -> int:
        """Return the socket's descriptor, to wait for events with ``select``."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket; QEMU goes on."""
        self._socket.close()

    def command(self, name: str, **arguments: object) -> Any:
        """Run a command and return its answer; events that come first are kept."""
        request: dict[str, object] = {"execute": name}
        if arguments:
            request["arguments"] = arguments
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as e:
            raise LabError(f"QEMU ended before {name}: {e}") from e
        deadline = time.monotonic() + self._timeout
        while True:
            message = self._read_object(deadline)
            if "event" in message:
                self._keep(message)
            elif "error" in message:
                raise LabError(f"QEMU refused {name}: {message['error'].get('desc', message)}")
            elif "return" in message:
                return message["return"]

    def wait_event(self, *names: str, timeout: float) -> Event:
        """Return the next event of ``names``, dropping others."""
        deadline = time.monotonic() + timeout
        while True:
            while self._events:
                event = self._events.popleft()
                if event.name in names:
                    return event
            self._keep(self._read_object(deadline))

    def take_events(self) -> list[Event]:
        """Return the events that have come, without waiting; an end of the socket is none."""
        with contextlib.suppress(LabError):
            while True:
                self._keep(self._read_object(time.monotonic()))
        events = list(self._events)
        self._events.clear()
        return events

    def _keep(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._events.append(Event(name=message["event"], data=message.get("data", {})))

    def _read_object(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._received:
            try:
                self._socket.settimeout(max(deadline - time.monotonic(), 0.0001))
                chunk = self._socket.recv(_CHUNK)
            except TimeoutError as e:
                raise LabError("QEMU did not answer in time") from e
            except OSError as e:
                raise LabError(f"QEMU's control socket failed: {e}") from e
            if not chunk:
                raise LabError("QEMU closed its control socket")
            self._received += chunk
        line, self._received = self._received.split(b"\n", 1)
        message = json.loads(line)
        if not isinstance(message, dict):
            raise LabError(f"QEMU's control socket said {message!r}")
        return message
