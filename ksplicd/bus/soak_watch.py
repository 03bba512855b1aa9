# SPDX-License-Identifier: GPL-2.0-only
"""Updates in their soak time: how long it lasts, and what the kernel says meanwhile.

/dev/kmsg is watched only while an update is on its way or soaks: a daemon with nothing new in the
kernel hears nothing of its log.  What was logged before we looked is read too, as far back as the
kernel has it: updates that came back at boot were at work before us.
"""

import contextlib
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gi.repository import GLib

from ksplicd.bus import coroutines
from ksplicd.bus.runner import Runner
from ksplicd.errors import (
    AlreadyReversedError,
    CodeBusyError,
    KernelWarningError,
    KspliceError,
)
from ksplicd.host.kernel.kmsg import Complaint, Reader, Watchlist
from ksplicd.host.stages import DAEMON, Direction, UpdateInfo, is_moving
from ksplicd.model import Stage

_log = logging.getLogger(__name__)

KMSG: Final = Path("/dev/kmsg")

_RECORD_SIZE: Final = 8192  # CONSOLE_EXT_LOG_MAX, kernel/printk/internal.h
_RECORDS_AT_ONCE: Final = 100
"""So that a full log holds the loop for a few milliseconds at a time only."""


class SoakWatch:
    """The timer and the kernel's log."""

    def __init__(self, runner: Runner, kmsg: Path = KMSG) -> None:
        """Nothing is opened before ``show`` tells of an update in the kernel."""
        self._runner = runner
        self._engine = runner.engine
        self._kmsg = kmsg
        self._reader = Reader()
        self._watchlist = Watchlist()
        self._is_moving = False
        self._is_first = True
        """Whether nothing was shown yet in this life of the daemon."""
        self._undoing: set[str] = set()
        """Updates that are undone by policy, or will be tried again."""
        self._timer: GLib.Source | None = None
        self._fd = -1
        self._source = 0
        self._is_deaf = False

    def show(self, infos: Sequence[UpdateInfo]) -> None:
        """Take note of what is in the kernel now."""
        moving = [info for info in infos if is_moving(info.stage)]
        applied = [info for info in infos if info.stage is Stage.APPLIED]
        self._watchlist = Watchlist([*moving, *applied])
        self._is_moving = bool(moving)
        if self._is_first:
            self._is_first = False
            if (moving or applied) and self._engine.settings.undo_on_warning:
                coroutines.spawn(self._resume())
        if moving or applied or self._source:
            coroutines.spawn(self._look())

    def stop(self) -> None:
        """Watch nothing any more."""
        self._stop_timer()
        self._ignore()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # --- how long -------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Note what has run for its soak time, and look again when the next one has."""
        try:
            seconds = await self._runner.worker.run(self._engine.soak)
        except KspliceError as e:
            _log.error("the crash guard does not know what runs well: %s", e)
            return
        self._stop_timer()
        if seconds < float("inf"):
            self._timer = GLib.timeout_source_new_seconds(math.ceil(seconds))
            self._timer.set_callback(self._on_timer)
            self._timer.attach(None)
        if self._engine.settings.soak_time and (self._is_moving or self._timer is not None):
            self._listen()
        else:
            self._ignore()

    def _on_timer(self, *_args: object) -> bool:
        coroutines.spawn(self._look())
        return False  # once

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.destroy()
            self._timer = None

    # --- what the kernel says -------------------------------------------------------------------

    def _listen(self) -> None:
        if self._source or self._is_deaf:
            return
        if self._fd < 0:
            try:
                self._fd = os.open(self._kmsg, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as e:
                self._give_up(e)
                return
        conditions = GLib.IOCondition.IN | GLib.IOCondition.HUP | GLib.IOCondition.ERR
        self._source = GLib.io_add_watch(self._fd, GLib.PRIORITY_LOW, conditions, self._on_log)

    def _ignore(self) -> None:
        if self._source:
            GLib.source_remove(self._source)
            self._source = 0

    def _give_up(self, error: OSError) -> None:
        """Work on without the log, such as where the kernel was started with printk.devkmsg=off."""
        _log.warning("%s: %s: the kernel's warnings are not heard", self._kmsg, error.strerror)
        self._is_deaf = True
        self._source = 0

    def _on_log(self, fd: int, _condition: int) -> bool:
        for _ in range(_RECORDS_AT_ONCE):
            try:
                data = os.read(fd, _RECORD_SIZE)
            except BlockingIOError:
                return True  # more will come
            except BrokenPipeError:
                continue  # the kernel wrote over records that we had not read
            except OSError as e:
                self._give_up(e)
                return False
            for complaint in self._reader.feed(data):
                for kid in self._watchlist.find(complaint):
                    coroutines.spawn(self._heed(kid, complaint))
        return True

    async def _heed(self, kid: str, complaint: Complaint) -> None:
        """Have it recorded that the kernel complains of an update; undo that by policy."""
        try:
            if not await self._runner.worker.run(self._engine.heed, kid, complaint):
                return
        except KspliceError as e:  # a full disk keeps nothing from being undone
            _log.error("update %s: the kernel complains of it (%s): %s", kid, complaint.headline, e)
        else:
            await self._runner.show()
            if self._engine.settings.undo_on_warning:
                await self._turn_around(kid)
        await self._undo(kid, complaint.headline)

    # --- what follows from it -------------------------------------------------------------------

    async def _resume(self) -> None:
        """Undo by policy what the kernel complained of before the daemon was restarted."""
        try:
            found = await self._runner.worker.run(self._engine.complaints)
        except KspliceError as e:
            _log.error("what the kernel complained of before cannot be told: %s", e)
            return
        for kid, complaint in found.items():
            coroutines.spawn(self._undo(kid, complaint))

    async def _turn_around(self, kid: str) -> None:
        """Have an update come to rest, at the old code if it is on its way to the new one."""
        job = self._runner.job
        if job and job.transition.kid == kid and job.transition.direction is Direction.APPLY:
            self._runner.cancel(job, KernelWarningError)
            await coroutines.Wait(job.ended)  # it may have been applied already

    async def _undo(self, kid: str, complaint: str) -> None:
        """Undo an update, by policy.  Nobody waits for it: it is tried again, as an apply is.

        Before each try it is asked whether that is still the policy, and what runs still the code
        that the kernel complained of: a person may have taken it out and applied it anew.
        """
        if kid in self._undoing:
            return
        self._undoing.add(kid)
        settings = self._engine.settings
        for left in range(settings.retries, -1, -1):
            try:
                await self._try_to_undo(kid, f"undo-on-warning: {complaint}")
            except KspliceError as e:
                then = f"it is tried again in {settings.retry_delay} s"
                if not left:
                    then = f"`ksplice undo {kid}` takes it out"
                _log.error("update %s is not undone: %s; %s", kid, e, then)
            else:
                break
            if left:
                await coroutines.sleep(settings.retry_delay)
        self._undoing.discard(kid)

    async def _try_to_undo(self, kid: str, why: str) -> None:
        if not self._engine.settings.undo_on_warning:
            return
        if not await self._runner.worker.run(self._engine.complaint_of, kid):
            return
        for each in await self._runner.worker.run(self._engine.undo_order, kid):
            with contextlib.suppress(AlreadyReversedError):  # somebody was quicker
                job = await self._runner.start(Direction.UNDO, each, DAEMON, why=why)
                if await coroutines.Wait(job.ended) == CodeBusyError.abort_cause:
                    raise CodeBusyError(f"{each}: its code was busy")
