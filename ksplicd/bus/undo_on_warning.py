# SPDX-License-Identifier: GPL-2.0-only
"""``undo-on-warning``: have the kernel's complaints recorded, and undo those updates by policy.

Whether a complaint is of an update that is new enough is decided by the engine.
"""

import contextlib
import logging

from ksplicd.bus import coroutines
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.jobs import Jobs
from ksplicd.bus.shown import Shown
from ksplicd.errors import (
    AlreadyReversedError,
    CodeBusyError,
    KernelWarningError,
    KspliceError,
)
from ksplicd.host.kernel.kmsg import Complaint
from ksplicd.host.stages import DAEMON, Direction

_log = logging.getLogger(__name__)


class UndoOnWarning:
    """What follows from a complaint."""

    def __init__(self, worker: EngineWorker, jobs: Jobs, shown: Shown) -> None:
        self._worker = worker
        self._engine = worker.engine
        self._jobs = jobs
        self._shown = shown
        self._undoing: set[str] = set()
        """Updates that are undone by policy, or will be tried again."""

    async def record(self, kid: str, complaint: Complaint) -> None:
        """Have it recorded that the kernel complains of an update; undo that by policy."""
        try:
            if not await self._worker.run(self._engine.soak.record_complaint, kid, complaint):
                return
        except KspliceError as e:  # a full disk keeps nothing from being undone
            _log.error("update %s: the kernel complains of it (%s): %s", kid, complaint.headline, e)
        else:
            await self._shown.show()
            if self._engine.doors.settings.undo_on_warning:
                await self._turn_around(kid)
        await self._undo(kid, complaint.headline)

    async def resume(self) -> None:
        """Undo by policy what the kernel complained of before the daemon was restarted."""
        try:
            found = await self._worker.run(self._engine.soak.complaints)
        except KspliceError as e:
            _log.error("what the kernel complained of before is not known: %s", e)
            return
        for kid, complaint in found.items():
            coroutines.spawn(self._undo(kid, complaint))

    async def _turn_around(self, kid: str) -> None:
        """Have an update come to rest, at the old code if it is on its way to the new one."""
        running = self._jobs.moving()
        if running is None:
            return
        transition = running.job.transition
        if transition.kid == kid and transition.direction is Direction.APPLY:
            running.cancel(KernelWarningError)
            await coroutines.Wait(running.job.ended)  # it may have been applied already

    async def _undo(self, kid: str, complaint: str) -> None:
        """Undo an update, by policy.  Nobody waits for it: it is tried again, as an apply is.

        Each try first asks whether that is still the policy, and whether what runs is still the
        code that the kernel complained of: a person may have undone it and applied it anew.
        """
        if kid in self._undoing:
            return
        self._undoing.add(kid)
        settings = self._engine.doors.settings
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
        if not self._engine.doors.settings.undo_on_warning:
            return
        if not await self._worker.run(self._engine.soak.complaint_of, kid):
            return
        for each in await self._worker.run(self._engine.order.undo_order, kid):
            with contextlib.suppress(AlreadyReversedError):  # somebody was quicker
                job = await self._jobs.start(Direction.UNDO, each, DAEMON, why=why)
                if await coroutines.Wait(job.ended) == CodeBusyError.abort_cause:
                    raise CodeBusyError(f"{each}: its code was busy")
