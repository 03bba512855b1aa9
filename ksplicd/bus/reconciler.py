# SPDX-License-Identifier: GPL-2.0-only
"""Reconcile with the kernel: at the start, on SIGHUP, and when it may have changed unnoticed.

It may have when others loaded or unloaded a module of an update, or a job ended in an unexpected
error.  The engine settles the differences between the kernel and the records.
"""

import logging
from typing import Final

from ksplicd.bus import coroutines
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.job import Job
from ksplicd.bus.jobs import Ended, Jobs
from ksplicd.bus.shown import Shown
from ksplicd.errors import KspliceError
from ksplicd.host.stages import Reconciliation

_log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 5.0


class Reconciler:
    """Reconciles once no job runs."""

    def __init__(self, worker: EngineWorker, jobs: Jobs, shown: Shown) -> None:
        self._worker = worker
        self._jobs = jobs
        self._shown = shown
        self._is_due = False
        """Whether a reconciliation waits for its turn."""
        jobs.on_ended.append(self._on_job_ended)

    async def reconcile(self) -> Reconciliation:
        """Bring records and bus into line with the kernel, and follow its running transitions."""
        await self._jobs.turn.take()
        self._is_due = False
        try:
            found = await self._worker.run(self._worker.engine.reconcile)
            new = self._jobs.claim(found.transitions)
        finally:
            self._jobs.turn.give()
        try:
            await self._shown.show_updates()
        finally:
            for transition in new:
                coroutines.spawn(self._jobs.adopt(transition))
        return found

    async def try_reconcile(self) -> bool:
        """Reconcile and return True; after an error, which goes to the journal, False."""
        try:
            await self.reconcile()
        except KspliceError as e:
            _log.error("the records cannot be reconciled with the kernel: %s", e)
            return False
        return True

    def notice_module(self, name: str) -> None:
        """Reconcile once no job runs, if the module was loaded or unloaded by others."""
        if not self._jobs.is_ours(name):
            self.notice_loss()

    def notice_loss(self) -> None:
        """Reconcile once no job runs: what has happened to modules is not known."""
        if not self._is_due:
            self._is_due = True
            coroutines.spawn(self._reconcile_until_done())

    def _on_job_ended(self, _job: Job, ended: Ended) -> None:
        if not ended.is_known:
            coroutines.spawn(self._reconcile_until_done())

    async def _reconcile_until_done(self) -> None:
        """Reconcile; after an error, try again until there is none."""
        while not await self.try_reconcile():
            await coroutines.sleep(_RETRY_SECONDS)
