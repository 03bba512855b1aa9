# SPDX-License-Identifier: GPL-2.0-only
"""One transition, followed from its start to its end.

At each notice of the kernel it is asked whether the transition has ended.  The transition is turned
around when it is cancelled or reaches its limit.  ``jobs`` decides which update is next.
"""

from pathlib import Path
from typing import Final

from ksplicd.bus.coroutines import sleep
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.job import Job, Progress
from ksplicd.bus.names import DONE
from ksplicd.bus.polkit import Polkit
from ksplicd.bus.stage_watch import StageWatch
from ksplicd.errors import ApplyError, CancelledError, CodeBusyError, UnexpectedError
from ksplicd.host.report.journal import Journal, about_conflicts
from ksplicd.host.stages import Conflict, Direction, Transition
from ksplicd.model import Stage

UNKNOWN: Final = UnexpectedError.abort_cause
"""The result of a job whose end is not known."""

_LET_GO_PAUSE: Final = 0.2
"""Seconds; about what ftrace needs for a function."""
_GOALS: Final = {Direction.APPLY: Stage.APPLIED, Direction.UNDO: Stage.REVERSED}
_MOVING: Final = {Direction.APPLY: Stage.TRANSITIONING, Direction.UNDO: Stage.REVERSING}


class RunningJob:
    """Follows the transition of a job, and is that job's ``Control``."""

    def __init__(
        self,
        number: int,
        transition: Transition,
        worker: EngineWorker,
        polkit: Polkit,
        journal: Journal,
        stage_file: Path,
    ) -> None:
        """``stage_file`` is the attribute in which the kernel part gives notice."""
        self.job = Job(self, polkit, number, transition)
        self._worker = worker
        self._engine = worker.engine
        self._journal = journal
        self._watch: StageWatch | None = StageWatch(stage_file)
        self._cancel_cause = ""

    @property
    def is_moving(self) -> bool:
        """Whether the transition still runs, as far as is known."""
        return self._watch is not None

    async def find_conflicts(self) -> list[Conflict]:
        """Ask the kernel which tasks hold the transition up."""
        return await self._worker.run(self._engine.conflicts, self.job.transition)

    def cancel(self, error: type[ApplyError] = CancelledError) -> None:
        """Have the transition turned around; one that has ended stays as it is."""
        if self._watch is not None:
            self._cancel_cause = error.abort_cause
            self._watch.wake()

    async def finish(self) -> str:
        """Follow the transition to its end; returns ``done``, or the abort cause."""
        job, direction = self.job, self.job.transition.direction
        assert self._watch is not None
        try:
            await self._worker.run(self._engine.tidy, job.transition)
            while not await self._worker.run(self._engine.is_finished, job.transition):
                await self._turn_around_if_needed()
                await self._watch.wait(self._seconds_left())
        finally:
            self._watch.close()
            self._watch = None
        job.set_progress(Progress.FINISHING)
        while await self._worker.run(self._engine.lets_go, job.transition):
            await sleep(_LET_GO_PAUSE)
        info = await self._worker.run(self._engine.finish, job.transition)
        return DONE if info.stage is _GOALS[direction] else info.abort_cause or UNKNOWN

    async def _turn_around_if_needed(self) -> None:
        """Turn the transition around, once, if it was cancelled or has reached its limit."""
        job = self.job
        if job.transition.cancelled:
            return
        cause = self._cancel_cause
        if not cause and self._seconds_left() <= 0:
            cause = CodeBusyError.abort_cause
            stage, blockers = _MOVING[job.transition.direction], await self.find_conflicts()
            self._journal.write(about_conflicts(job.transition.kid, stage, blockers))
        if not cause:
            return
        job.transition = await self._worker.run(self._engine.cancel, job.transition, cause)
        job.set_progress(Progress.TURNING_BACK)

    def _seconds_left(self) -> float:
        """Return the seconds until the limit; on the way back there is none."""
        transition = self.job.transition
        if transition.cancelled:
            return float("inf")
        age = self._engine.doors.clock.monotonic() - transition.started
        return max(0.0, self._engine.doors.settings.transition_limit - age)
