# SPDX-License-Identifier: GPL-2.0-only
"""Apply and undo, one update at a time, in the order of the requests.

A turn lasts from the start of an apply or undo to the end of its transition; questions and staging
do not take turns.  Until the transition starts, a failure is an error of the call; from then on
there is a job.  Callers and policy decide what is applied and undone.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from ksplicd.bus import coroutines
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.errors import refuse_unknown_flags
from ksplicd.bus.job import ACTIONS, Job
from ksplicd.bus.polkit import Polkit
from ksplicd.bus.running_job import UNKNOWN, RunningJob
from ksplicd.bus.wrapper import Call
from ksplicd.errors import CancelledError, KspliceError
from ksplicd.host.report.journal import Journal
from ksplicd.host.stages import Actor, Direction, Transition
from ksplicd.model import core_module

_log = logging.getLogger(__name__)

SYSFS_MODULES: Final = Path("/sys/module")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a job ended."""

    result: str
    """``done`` or an abort cause."""
    is_known: bool
    """Whether the update's stage is known now; False after an unexpected error."""


async def _show_nothing() -> None:
    pass


class Jobs:
    """The turn, and the job that has it."""

    def __init__(
        self,
        worker: EngineWorker,
        polkit: Polkit,
        journal: Journal,
        modules: Path = SYSFS_MODULES,
    ) -> None:
        self.turn = coroutines.Turn()
        self.running: RunningJob | None = None
        """The job that was started last."""
        self.on_new: list[Callable[[Job], None]] = []
        self.on_ended: list[Callable[[Job, Ended], None]] = []
        self.show: Callable[[], Awaitable[None]] = _show_nothing
        """Called when a job has begun or ended, before that is reported."""
        self._worker = worker
        self._polkit = polkit
        self._journal = journal
        self._modules = modules
        self._number = 0
        self._adopting: set[str] = set()
        """Updates whose transition waits for its turn to be followed."""
        self._at_work = ""
        """The update whose turn it is."""

    def moving(self) -> RunningJob | None:
        """Return the job whose transition runs, if one does."""
        return self.running if self.running is not None and self.running.is_moving else None

    def is_ours(self, module: str) -> bool:
        """Return whether a module is of the update at work, whose modules we load and unload."""
        return bool(self._at_work) and f"{module}_".startswith(f"{core_module(self._at_work)}_")

    async def serve(
        self, call: Call, direction: Direction, kid: str, flags: int
    ) -> tuple[int, str]:
        """Apply or undo for a caller; returns the job's number and path."""
        refuse_unknown_flags(flags)
        await self._polkit.check(call, ACTIONS[direction], kid=kid)
        job = await self.start(direction, kid, await self._polkit.read_actor(call), call)
        return job.number, job.path

    async def start(
        self,
        direction: Direction,
        kid: str,
        actor: Actor,
        call: Call | None = None,
        *,
        why: str = "",
        below: str = "",
        if_wanted: bool = False,
    ) -> Job:
        """Wait for a turn, and start to apply or undo; the turn ends with the job.

        ``why`` an update is undone, and ``below`` which one, are as for ``Engine.start_undo``, and
        ``if_wanted`` as for ``Engine.start_apply``.
        Raises the engine's errors, and ``CancelledError`` when the caller has left the bus by then.
        """
        engine = self._worker.engine
        begin: Callable[[str, Actor], Transition] = engine.start_apply
        if if_wanted:
            begin = partial(engine.start_apply, if_wanted=True)
        if direction is Direction.UNDO:
            begin = partial(engine.start_undo, why=why, below=below)
        has_waited = self.turn.is_taken
        await self._take_turn(kid)
        try:
            if has_waited and call is not None and not await self._polkit.is_waiting(call):
                raise CancelledError(f"{kid}: {call.sender} has gone while it waited")
            running = self._add(await self._worker.run(begin, kid, actor))
        except BaseException:
            self._give_turn()
            raise
        finally:
            await self.show()
        coroutines.spawn(self._follow(running))
        return running.job

    # --- transitions that already run -----------------------------------------------------------

    def claim(self, transitions: Iterable[Transition]) -> list[Transition]:
        """Return the transitions that are not claimed yet, and claim them for ``adopt``."""
        new = [each for each in transitions if each.kid not in self._adopting]
        self._adopting.update(each.kid for each in new)
        return new

    async def adopt(self, transition: Transition) -> None:
        """Follow a claimed transition, once it has its turn."""
        await self._take_turn(transition.kid)
        self._adopting.discard(transition.kid)
        await self._follow(self._add(transition))

    # --- the way of a job -----------------------------------------------------------------------

    async def _take_turn(self, kid: str) -> None:
        await self.turn.take()
        self._at_work = kid

    def _give_turn(self) -> None:
        self._at_work = ""
        self.turn.give()

    def _add(self, transition: Transition) -> RunningJob:
        self._number += 1
        self.running = running = RunningJob(
            self._number,
            transition,
            self._worker,
            self._polkit,
            self._journal,
            self._modules / core_module(transition.kid) / "ksplice/stage",
        )
        for notify in self.on_new:
            notify(running.job)
        return running

    async def _follow(self, running: RunningJob) -> None:
        """Follow a job to its end, then give the turn away and report the result."""
        job = running.job
        ended = await self._finish(running)
        await self.show()
        self._give_turn()
        job.ended.set_result(ended.result)
        for notify in self.on_ended:
            notify(job, ended)

    async def _finish(self, running: RunningJob) -> Ended:
        kid, result = running.job.transition.kid, UNKNOWN
        try:
            return Ended(result=await running.finish(), is_known=True)
        except KspliceError as e:
            _log.error("update %s: %s", kid, e)
            result = e.abort_cause or result
        except Exception:
            _log.exception("update %s: the job went wrong", kid)
        return Ended(result=result, is_known=False)
