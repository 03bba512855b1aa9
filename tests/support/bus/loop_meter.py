# SPDX-License-Identifier: GPL-2.0-only
"""Measures how long a GLib loop is held up, by its own work and by the rest of the machine."""

import json
import time
from pathlib import Path
from typing import Final

from gi.repository import GLib

_TICK_MS: Final = 5


class LoopMeter:
    """Looks in between any two things that the loop does; the longest is what counts.

    ``file`` says in JSON how long the loop was away at most, in seconds: ``held`` of its thread's
    own processor time, which another process cannot make longer, and ``late`` by the clock but for
    the time that the thread waited for a processor (/proc/PID/schedstat).
    """

    def __init__(self, file: Path) -> None:
        """Begin; the loop's thread calls this."""
        self._file = file
        self._held = self._late = 0.0
        self._wall, self._processor, self._waited = _times()
        GLib.timeout_add(_TICK_MS, self._tick, priority=GLib.PRIORITY_HIGH)

    def _tick(self) -> bool:
        wall, processor, waited = _times()
        held = processor - self._processor
        late = wall - self._wall - (waited - self._waited) - _TICK_MS / 1000
        if held > self._held or late > self._late:
            self._held, self._late = max(held, self._held), max(late, self._late)
            self._file.write_text(json.dumps({"held": self._held, "late": self._late}))
        self._wall, self._processor, self._waited = _times()
        return True  # again


def _times() -> tuple[float, float, float]:
    """Return the clock, this thread's processor time, and its time on a run queue."""
    waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    return time.monotonic(), time.thread_time(), waited
