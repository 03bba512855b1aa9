# SPDX-License-Identifier: GPL-2.0-only
"""Updates in their soak time: how long it lasts, and what the kernel logs meanwhile.

/dev/kmsg is read only while an update moves or soaks, and from its beginning: updates that came
back at boot were at work before the daemon.  What follows from a complaint is up to
``undo_on_warning``.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from gi.repository import GLib

from ksplicd.bus import coroutines
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.kernel_log import KMSG, KernelLog
from ksplicd.bus.pauses import pause_of_fault
from ksplicd.bus.undo_on_warning import UndoOnWarning
from ksplicd.errors import KspliceError
from ksplicd.host.kernel.kmsg import Complaint, Watchlist
from ksplicd.host.stages import UpdateInfo, is_moving
from ksplicd.model import Stage

_log = logging.getLogger(__name__)


class SoakWatch:
    """The timer and the kernel's log."""

    def __init__(self, worker: EngineWorker, policy: UndoOnWarning, kmsg: Path = KMSG) -> None:
        """Nothing is watched before ``show`` is given an update that is in the kernel."""
        self._worker = worker
        self._engine = worker.engine
        self._policy = policy
        self._log = KernelLog(self._on_complaint, kmsg)
        self._watchlist = Watchlist()
        self._is_moving = False
        self._is_first = True
        """Whether nothing was shown yet since the daemon started."""
        self._timer: GLib.Source | None = None
        self._failures = 0
        """In a row, to record which updates have run for their soak time."""

    def show(self, infos: Sequence[UpdateInfo]) -> None:
        """Watch the updates that are in the kernel now."""
        moving = [info for info in infos if is_moving(info.stage)]
        applied = [info for info in infos if info.stage is Stage.APPLIED]
        self._watchlist = Watchlist([*moving, *applied])
        self._is_moving = bool(moving)
        if self._is_first:
            self._is_first = False
            if (moving or applied) and self._engine.doors.settings.undo_on_warning:
                coroutines.spawn(self._policy.resume())
        if moving or applied or self._log.is_watched:
            coroutines.spawn(self._look())

    def stop(self) -> None:
        """Stop watching."""
        self._stop_timer()
        self._log.close()

    async def _look(self) -> None:
        """Record which updates have run for their soak time, and set the timer for the next one."""
        try:
            seconds = await self._worker.run(self._engine.soak.watch)
        except KspliceError as e:
            seconds = pause_of_fault(self._failures)
            self._failures += 1
            _log.error("the soak times cannot be recorded: %s; again in %.0f s", e, seconds)
        else:
            self._failures = 0
        self._stop_timer()
        if seconds < float("inf"):
            self._timer = GLib.timeout_source_new_seconds(math.ceil(seconds))
            self._timer.set_callback(self._on_timer)
            self._timer.attach(None)
        if self._engine.doors.settings.soak_time and (self._is_moving or self._timer is not None):
            self._log.watch()
        else:
            self._log.ignore()

    def _on_timer(self, *_args: object) -> bool:
        coroutines.spawn(self._look())
        return False  # once

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.destroy()
            self._timer = None

    def _on_complaint(self, complaint: Complaint) -> None:
        for kid in self._watchlist.find(complaint):
            coroutines.spawn(self._policy.record(kid, complaint))
