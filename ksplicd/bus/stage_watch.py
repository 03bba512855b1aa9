# SPDX-License-Identifier: GPL-2.0-only
"""Wait for a transition to end, without polling where the kernel gives notice.

The kernel part notifies ``/sys/module/ksplice_KID/ksplice/stage`` (poll(2), POLLPRI, by
``sysfs_notify``).  The notice may come a moment before the transition is over, and a kernel may
send none: a timer that is quick after each notice and then slows down covers both.  Whether the
transition has ended is for the engine to find out.
"""

import contextlib
import os
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from gi.repository import GLib

from ksplicd.bus.coroutines import Wait
from ksplicd.bus.loop import call_later

_QUICK_SECONDS: Final = 0.02
_SLOW_SECONDS: Final = 1.0


class StageWatch:
    """``wait()`` returns when the transition may have ended."""

    def __init__(self, path: Path) -> None:
        self._delay = _QUICK_SECONDS
        self._wake: Future[None] | None = None
        self._source = 0
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1  # the timer alone
            return
        self._arm()
        urgent = GLib.IOCondition.PRI | GLib.IOCondition.ERR
        self._source = GLib.io_add_watch(self._fd, GLib.PRIORITY_DEFAULT, urgent, self._on_notice)

    async def wait(self, at_most: float) -> None:
        """Wait for a notice, for ``wake()``, or for the timer; ``at_most`` seconds."""
        self._wake = future = Future[None]()
        timer = call_later(min(self._delay, at_most), self.wake)
        self._delay = min(2 * self._delay, _SLOW_SECONDS)
        await Wait(future)
        timer.cancel()

    def wake(self) -> None:
        """End the wait that is under way, if there is one."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def close(self) -> None:
        """Close the file, so that the module can be unloaded."""
        if self._source:
            GLib.source_remove(self._source)
        if self._fd >= 0:
            os.close(self._fd)
        self._source, self._fd = 0, -1

    def _arm(self) -> None:
        """Read the attribute: the kernel notifies the next change only then."""
        with contextlib.suppress(OSError):  # ENODEV: the module is being unloaded
            os.pread(self._fd, 64, 0)

    def _on_notice(self, _fd: int, _condition: int) -> bool:
        self._arm()
        self._delay = _QUICK_SECONDS
        self.wake()
        return True  # go on watching
