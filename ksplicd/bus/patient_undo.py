# SPDX-License-Identifier: GPL-2.0-only
"""Undo updates that no caller waits for; what fails is tried again, as a busy apply is.

Which updates those are, and why, is up to policy (``automatic``, ``undo_on_warning``).
"""

import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable

from ksplicd.bus import coroutines
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.jobs import Jobs
from ksplicd.bus.pauses import pause_of_busy
from ksplicd.errors import AlreadyReversedError, CodeBusyError, KspliceError
from ksplicd.host.stages import Actor, Direction

_log = logging.getLogger(__name__)


class PatientUndo:
    """Undoes updates in ``retries`` further tries, ``retry-delay`` apart, and then hourly."""

    def __init__(self, worker: EngineWorker, jobs: Jobs) -> None:
        self._engine = worker.engine
        self._jobs = jobs

    async def undo(
        self,
        what: str,
        find: Callable[[], Awaitable[Iterable[str]]],
        actor: Actor,
        *,
        why: str,
        below: str = "",
    ) -> None:
        """Undo the updates that ``find`` returns, in this order; each try asks it again.

        ``what`` names them in the log; ``why`` and ``below`` are as for ``Engine.start_undo``.
        """
        for attempt in itertools.count():
            try:
                await self._try(await find(), actor, why, below)
            except KspliceError as e:
                pause = pause_of_busy(attempt, self._engine.doors.settings)
                hint = "it is tried again in %.0f s, or `ksplice undo` does it by hand"
                _log.error(f"%s is not undone: %s; {hint}", what, e, pause)
            else:
                return
            await coroutines.sleep(pause)

    async def _try(self, kids: Iterable[str], actor: Actor, why: str, below: str) -> None:
        for kid in kids:
            with contextlib.suppress(AlreadyReversedError):  # somebody else was quicker
                job = await self._jobs.start(Direction.UNDO, kid, actor, why=why, below=below)
                if await coroutines.Wait(job.ended) == CodeBusyError.abort_cause:
                    raise CodeBusyError(f"{kid}: its code was busy")
