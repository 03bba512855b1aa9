# SPDX-License-Identifier: GPL-2.0-only
"""What the GLib loop is to call, soon or later: one source of the loop, for good.

PyGObject before 3.44.2 leaks half a kilobyte for each source that is added to the loop
(``idle_add``, ``timeout_add``), and each call on the bus needs some.  One source that stays, with
a queue and its ``ready_time`` (g_source_set_ready_time), leaks nothing.
"""

import atexit
import heapq
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from gi.repository import GLib

_log = logging.getLogger(__name__)

_NOW: Final = 0
_NEVER: Final = -1


class Timer:
    """A call that is due later, unless it is cancelled."""

    __slots__ = ("call", "due", "number")

    def __init__(self, due: float, number: int, call: Callable[[], object]) -> None:
        self.due, self.number = due, number
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """Have it not called."""
        self.call = None

    def __lt__(self, other: "Timer") -> bool:
        return (self.due, self.number) < (other.due, other.number)


class _Source(GLib.Source):  # type: ignore[misc]
    """Calls what is queued, in order, then what is due."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: deque[Callable[[], object]] = deque()
        self.timers: list[Timer] = []
        self._number = 0

    def prepare(self) -> tuple[bool, int]:
        """Leave it to the ready time; GLib asks."""
        return False, -1

    def check(self) -> bool:
        """Leave it to the ready time; GLib asks."""
        return False

    def dispatch(self, _callback: object, _args: object) -> bool:
        """Make the calls; those that they queue come in the next round."""
        self.set_ready_time(_NEVER)
        calls = [self.queue.popleft() for _ in range(len(self.queue))]
        now = time.monotonic()
        while self.timers and (self.timers[0].call is None or self.timers[0].due <= now):
            if (call := heapq.heappop(self.timers).call) is not None:
                calls.append(call)
        for call in calls:
            try:
                call()
            except Exception:
                _log.exception("the loop called what should have handled its error")
        self.wake()
        return True  # for good

    def add(self, due: float, call: Callable[[], object]) -> Timer:
        self._number += 1
        timer = Timer(due, self._number, call)
        heapq.heappush(self.timers, timer)
        return timer

    def wake(self) -> None:
        """Set when the loop has to call next; in the loop's thread.

        Another thread queues a call first, and then sets the time: so the queue is looked at last.
        """
        if self.timers:
            self.set_ready_time(round(self.timers[0].due * 1_000_000))
        if self.queue:
            self.set_ready_time(_NOW)


_sources: Final[list[_Source]] = []
atexit.register(_sources.clear)  # PyGObject cannot free a source when Python is half gone


def _source() -> _Source:
    """Return the source of the default context; one process forks before it has a loop."""
    if not _sources:
        source = _Source()
        source.set_priority(GLib.PRIORITY_DEFAULT)
        source.attach(None)
        _sources.append(source)
    return _sources[0]


def call_soon(function: Callable[..., object], *args: Any) -> None:
    """Have the loop call ``function``, after all that is queued; any thread may ask."""
    source = _source()
    source.queue.append(partial(function, *args))
    source.set_ready_time(_NOW)


def call_later(seconds: float, function: Callable[..., object], *args: Any) -> Timer:
    """Have the loop call ``function`` once, in so many seconds; only the loop's thread may ask."""
    source = _source()
    timer = source.add(time.monotonic() + max(0.0, seconds), partial(function, *args))
    source.wake()
    return timer
