# SPDX-License-Identifier: GPL-2.0-only
"""Whether the worker's thread still gets on, which the watchdog asks.

A call may take long: a module of thousands of functions is matched, on a machine that has other
things to do.  Then the thread works, in the kernel too, and that shows on its clock.  Stuck is one
that does not work at all for minutes, as when a file system does not answer; and one that works at
a single call for an hour.  A transition is no such call: nobody waits for it on the thread.
"""

import time
from functools import partial
from typing import Final

from ksplicd.bus.coroutines import Work, Worker

IDLE_SECONDS: Final = 300.0
"""For which a call may wait, and do nothing."""
_LONGEST: Final = 3600.0
"""Seconds that a call may take."""


class StuckWatch:
    """Looks at a worker once in a while.

    Time is counted in looks: the process itself may have been stopped between two of them.
    """

    def __init__(self, worker: Worker, idle_seconds: float = IDLE_SECONDS) -> None:
        self._worker = worker
        self._idle_seconds = idle_seconds
        self._work: Work | None = None
        self._clock = 0
        self._idle = self._took = 0.0

    def look(self, seconds: float) -> str:
        """Return why the worker is stuck, or empty text; the look before was ``seconds`` ago."""
        work = self._worker.work
        if work is None or work is not self._work:
            self._work, self._clock = work, 0
            self._idle = self._took = 0.0
            return ""
        clock = time.clock_gettime_ns(time.pthread_getcpuclockid(work.thread))
        self._took += seconds
        self._idle = 0.0 if clock != self._clock else self._idle + seconds
        self._clock = clock
        if self._idle >= self._idle_seconds:
            return f"{_name(work)} has got nowhere for {self._idle:.0f} s"
        if self._took >= _LONGEST:
            return f"{_name(work)} takes {self._took:.0f} s"
        return ""


def _name(work: Work) -> str:
    function = work.function
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__qualname__", function))
