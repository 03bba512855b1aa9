# SPDX-License-Identifier: GPL-2.0-only
"""``undo-on-warning``: have the kernel's complaints recorded, and undo their updates by policy.

A stall is only reported: a user can bring one about, and must not undo a fix by that.

The engine decides whether an update is new enough for a complaint to count.
"""

import logging
from typing import Final

from ksplicd.bus import coroutines
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.jobs import Jobs
from ksplicd.bus.patient_undo import PatientUndo
from ksplicd.bus.shown import Shown
from ksplicd.errors import KernelWarningError, KspliceError
from ksplicd.host.kernel.kmsg import Complaint
from ksplicd.host.stages import DAEMON, Direction

_log = logging.getLogger(__name__)

_STALL_SECONDS: Final = 600.0


class UndoOnWarning:
    """The policy."""

    def __init__(self, worker: EngineWorker, jobs: Jobs, shown: Shown) -> None:
        self._worker = worker
        self._engine = worker.engine
        self._jobs = jobs
        self._patient = PatientUndo(worker, jobs)
        self._shown = shown
        self._undoing: set[str] = set()
        """Updates that are undone by policy, or will be tried again."""
        self._next_stall: dict[str, float] = {}
        """Update → when the next stall is reported."""

    async def record(self, kid: str, complaint: Complaint) -> None:
        """Have a complaint recorded, and undo its update by policy."""
        if complaint.is_stall:
            self._report_stall(kid, complaint)
            return
        try:
            if not await self._worker.run(self._engine.soak.record_complaint, kid, complaint):
                return
        except KspliceError as e:  # a full disk does not keep an update from being undone
            _log.error("update %s: the kernel complains of it (%s): %s", kid, complaint.headline, e)
        else:
            await self._shown.show()
            if self._engine.doors.settings.undo_on_warning:
                await self._turn_around(kid)
        await self._undo(kid, complaint.headline)

    def _report_stall(self, kid: str, complaint: Complaint) -> None:
        """Write a stall to the journal, of each update once in a while; a user can make many."""
        now = self._engine.doors.clock.monotonic()
        if now >= self._next_stall.get(kid, 0):
            self._next_stall[kid] = now + _STALL_SECONDS
            _log.warning(
                "update %s: %s is in the stack of a stall (%s); it is not undone for that",
                kid, complaint.function, complaint.headline,
            )  # fmt: skip

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
        """Wait until an update does not move, turning its apply around."""
        running = self._jobs.moving()
        if running is None:
            return
        transition = running.job.transition
        if transition.kid == kid and transition.direction is Direction.APPLY:
            running.cancel(KernelWarningError)
            await coroutines.Wait(running.job.ended)  # it may have been applied already

    async def _undo(self, kid: str, complaint: str) -> None:
        """Undo an update, by policy."""
        if kid in self._undoing:
            return
        self._undoing.add(kid)
        try:
            await self._patient.undo(
                f"update {kid}",
                lambda: self._find(kid),
                DAEMON,
                why=f"undo-on-warning: {complaint}",
            )
        finally:
            self._undoing.discard(kid)

    async def _find(self, kid: str) -> list[str]:
        """Return an update and those that have to be undone before it, if that is still right.

        The policy may be another one by now, and the code that the kernel complained of gone: a
        person may have undone the update and applied it anew.
        """
        if not self._engine.doors.settings.undo_on_warning:
            return []
        if not await self._worker.run(self._engine.soak.complaint_of, kid):
            return []
        return await self._worker.run(self._engine.order.undo_order, kid)
