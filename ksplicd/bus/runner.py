# SPDX-License-Identifier: GPL-2.0-only
"""Carry out what is asked for: one update at a time, in the order of asking.

The engine blocks, so every call to it runs on the worker's thread.  A turn lasts from the start of
an apply or undo to the end of its transition; questions and staging pass in between.  What goes
wrong before the transition is an error of the call; from then on there is a job.
"""

import contextlib
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gi.repository import GLib

from ksplicd.bus import coroutines, names
from ksplicd.bus.errors import refuse_unknown_flags
from ksplicd.bus.job import ACTIONS, DONE, Job, Progress
from ksplicd.bus.objects import Objects
from ksplicd.bus.polkit import Polkit
from ksplicd.bus.stage_watch import StageWatch
from ksplicd.bus.update import Update
from ksplicd.bus.wrapper import Call
from ksplicd.errors import (
    AlreadyReversedError,
    ApplyError,
    CancelledError,
    CodeBusyError,
    KspliceError,
)
from ksplicd.host.engine import Engine
from ksplicd.host.report import journal
from ksplicd.host.stages import (
    DAEMON,
    Actor,
    Direction,
    Event,
    Reconciliation,
    Transition,
    UpdateInfo,
)
from ksplicd.model import Stage, core_module

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

_GOALS: Final = {Direction.APPLY: Stage.APPLIED, Direction.UNDO: Stage.REVERSED}
_MOVING: Final = {Direction.APPLY: Stage.TRANSITIONING, Direction.UNDO: Stage.REVERSING}

_RETRY_SECONDS: Final = 5.0
_GATHER_SECONDS: Final = 0.1
"""For which new updates are gathered before all are listed."""

SYSFS_MODULES: Final = Path("/sys/module")


def superseded(kid: str) -> str:
    """Return what the history says of an update that ``kid`` is instead of."""
    return f"superseded by update {kid}"


class Runner:
    """The engine, its thread, and the jobs."""

    def __init__(
        self,
        engine: Engine,
        worker: coroutines.Worker,
        objects: Objects,
        polkit: Polkit,
        book: journal.Journal,
        modules: Path = SYSFS_MODULES,
    ) -> None:
        self.engine = engine
        self.worker = worker
        self.polkit = polkit
        self.on_job_new: Callable[[int, str], None] = lambda number, path: None
        self.on_shown: Callable[[list[UpdateInfo]], None] = lambda infos: None
        self.on_job_removed: Callable[[int, str, str, str], None] = lambda *args: None
        self._objects = objects
        self._journal = book
        self._modules = modules
        self._turn = coroutines.Turn()
        self._updates: dict[str, Update] = {}
        self._number = 0
        self._job: Job | None = None
        self._watch: StageWatch | None = None
        self._cancel_cause = ""
        self._adopting: set[str] = set()
        """Updates with a transition that waits for its turn to be watched."""
        self._at_work = ""
        """The update whose turn it is; its modules come and go by our own doing."""
        self._is_look_due = False
        """Whether we shall reconcile when the turn is free."""
        self._is_show_due = False
        """Whether the worker will list the updates for new ones to be shown."""
        engine.on_event = self._on_event
        objects.refresh_all = self.refresh_all

    @property
    def job(self) -> Job | None:
        """The job that is on, if one is."""
        return self._job if self._watch is not None else None

    # --- what the daemon asks for ---------------------------------------------------------------

    async def reconcile(self) -> Reconciliation:
        """Learn the kernel's truth, show it, and watch what still moves."""
        await self._turn.take()
        self._is_look_due = False
        try:
            found = await self.worker.run(self.engine.reconcile)
            new = [each for each in found.transitions if each.kid not in self._adopting]
            self._adopting.update(each.kid for each in new)
        finally:
            self._turn.give()
        try:
            await self.show_updates()
        finally:
            for transition in new:
                coroutines.spawn(self._adopt(transition))
        return found

    def hear_module(self, name: str) -> None:
        """Look what is so, when the turn is free: somebody loaded or unloaded a module of ours.

        That may have been us, who know.
        """
        is_ours = bool(self._at_work) and f"{name}_".startswith(f"{core_module(self._at_work)}_")
        if not is_ours and not self._is_look_due:
            self._is_look_due = True
            coroutines.spawn(self._look_again())

    async def start(
        self,
        direction: Direction,
        kid: str,
        actor: Actor,
        call: Call | None = None,
        *,
        why: str = "",
        below: str = "",
    ) -> Job:
        """Start to apply or undo when it is our turn; the turn ends with the job.

        ``why`` an update is undone, and ``below`` which one, are as for ``Engine.start_undo``.

        Should the caller have given up by then, so do we: nobody expects it to happen any more.
        """
        begin: Callable[[str, Actor], Transition] = self.engine.start_apply
        if direction is Direction.UNDO:
            begin = partial(self.engine.start_undo, why=why, below=below)
        await self._take_turn(kid)
        try:
            if call is not None and not await self.polkit.is_waiting(call):
                raise CancelledError(f"{kid}: {call.sender} has gone while it waited")
            job = self._new_job(await self.worker.run(begin, kid, actor))
        except BaseException:
            self._give_turn()
            raise
        finally:
            await self.show()
        coroutines.spawn(self._follow(job))
        return job

    # --- what the bus asks for ------------------------------------------------------------------

    async def serve(
        self, call: Call, direction: Direction, kid: str, flags: int
    ) -> tuple[int, str]:
        """Apply or undo for a caller; returns the job's number and path."""
        refuse_unknown_flags(flags)
        await self.polkit.check(call, ACTIONS[direction], kid=kid)
        job = await self.start(direction, kid, await self.polkit.read_actor(call), call)
        return job.number, job.path

    async def get_update(self, kid: str) -> UpdateInfo:
        """Return an update as the kernel shows it now.  Raises ``NoSuchUpdateError``."""
        return await self.worker.run(self.engine.get_update, kid)

    async def list_updates(self) -> list[UpdateInfo]:
        """Return every update as the kernel shows it now."""
        return await self.worker.run(self.engine.list_updates)

    async def show_updates(self) -> None:
        """Make the objects on the bus agree with the store and the kernel, and tell of it."""
        self.on_shown(await self._refresh_updates())

    async def refresh_all(self) -> None:
        """Make the objects on the bus agree with the store and the kernel."""
        await self._refresh_updates()
        if self.job is not None:
            await self.job.refresh()

    async def _refresh_updates(self) -> list[UpdateInfo]:
        found = await self.list_updates()
        infos = {info.kid: info for info in found}
        for kid in self._updates.keys() - infos.keys():
            del self._updates[kid]
            self._objects.remove(names.update_path(kid))
        for kid, info in infos.items():
            if kid in self._updates:
                self._updates[kid].show(info)
            else:
                self._updates[kid] = Update(self, info)
                self._objects.add(names.update_path(kid), self._updates[kid])
        return found

    async def look_for_conflicts(self, job: Job) -> None:
        """Ask the kernel who holds ``job`` up."""
        job.blockers = await self.worker.run(self.engine.conflicts, job.transition)

    def cancel(self, job: Job, error: type[ApplyError] = CancelledError) -> None:
        """Have the transition of ``job`` turned around; a job that has ended stays as it is."""
        if job is self._job and self._watch is not None:
            self._cancel_cause = error.abort_cause
            self._watch.wake()

    # --- the way of a job -----------------------------------------------------------------------

    async def _take_turn(self, kid: str) -> None:
        await self._turn.take()
        self._at_work = kid

    def _give_turn(self) -> None:
        self._at_work = ""
        self._turn.give()

    def _new_job(self, transition: Transition) -> Job:
        self._number += 1
        self._job = job = Job(self, self._number, transition)
        self._cancel_cause = ""
        self._watch = StageWatch(self._modules / core_module(transition.kid) / "ksplice/stage")
        self._objects.add(job.path, job)
        self.on_job_new(job.number, job.path)
        return job

    async def _adopt(self, transition: Transition) -> None:
        """Watch a transition that we did not start in this life."""
        await self._take_turn(transition.kid)
        self._adopting.discard(transition.kid)
        await self._follow(self._new_job(transition))

    async def _follow(self, job: Job) -> None:
        """Stay with ``job`` to its end; then the next one's turn begins."""
        result, is_known = "unexpected", False
        try:
            result = await self._finish(job)
            is_known = True
        except KspliceError as e:
            _log.error("update %s: %s", job.transition.kid, e)
            result = e.abort_cause or result
        except Exception:
            _log.exception("update %s: the job went wrong", job.transition.kid)
        await self.show()
        self._give_turn()
        self._objects.remove(job.path)
        self.on_job_removed(job.number, job.path, job.transition.kid, result)
        job.ended.set_result(result)
        if not is_known:
            coroutines.spawn(self._look_again())
        elif result == DONE and job.transition.direction is Direction.APPLY:
            coroutines.spawn(self.take_out_superseded(job.transition.kid, job.transition.actor))
        elif result == DONE:
            coroutines.spawn(self.take_out_all_superseded())

    async def take_out_all_superseded(self) -> None:
        """Undo whatever an applied update is instead of, and no other one needs any more."""
        try:
            infos = await self.list_updates()
        except KspliceError as e:
            _log.error("what is superseded cannot be told: %s", e)
            return
        for info in infos:
            if info.stage is Stage.APPLIED and info.manifest.replaces:
                coroutines.spawn(self.take_out_superseded(info.kid, DAEMON))

    async def take_out_superseded(self, kid: str, actor: Actor) -> None:
        """Undo what an applied update is instead of: nobody runs its code any more.

        Update ``kid`` lies on top of it, so that at no time anybody runs the old code.  Nobody
        waits for it: it is tried again, as an apply is.
        """
        for left in range(self.engine.settings.retries, -1, -1):
            try:
                await self._take_out_superseded(kid, actor)
            except KspliceError as e:
                then = "it is tried again" if left else "`ksplice undo` takes it out"
                _log.error("what update %s is instead of is not undone: %s; %s", kid, e, then)
            else:
                return
            if left:
                await coroutines.sleep(self.engine.settings.retry_delay)

    async def _take_out_superseded(self, kid: str, actor: Actor) -> None:
        for old in await self.worker.run(self.engine.superseded_by, kid):
            # Somebody was quicker, with the one or the other.
            with contextlib.suppress(AlreadyReversedError):
                job = await self.start(Direction.UNDO, old, actor, why=superseded(kid), below=kid)
                if await coroutines.Wait(job.ended) == CodeBusyError.abort_cause:
                    raise CodeBusyError(f"{old}: its code was busy")

    async def _look_again(self) -> None:
        """Find out what is so, as at a start, however long that takes."""
        while True:
            try:
                await self.reconcile()
            except KspliceError as e:
                _log.error("our records do not agree with the kernel: %s", e)
                await coroutines.sleep(_RETRY_SECONDS)
            else:
                return

    async def _finish(self, job: Job) -> str:
        """Return the result of ``job``: ``done``, or the abort cause."""
        assert self._watch is not None
        direction = job.transition.direction
        try:
            await self.worker.run(self.engine.tidy, job.transition)
            while not await self.worker.run(self.engine.is_finished, job.transition):
                await self._turn_around_if_needed(job)
                await self._watch.wait(self._seconds_left(job.transition))
        finally:
            self._watch.close()
            self._watch = None
        job.set_progress(Progress.FINISHING)
        info = await self.worker.run(self.engine.finish, job.transition)
        return DONE if info.stage is _GOALS[direction] else info.abort_cause or "unexpected"

    async def _turn_around_if_needed(self, job: Job) -> None:
        """Cancel a transition that shall not, or cannot, go on."""
        if job.transition.cancelled:
            return
        cause = self._cancel_cause
        if not cause and self._seconds_left(job.transition) <= 0:
            cause = CodeBusyError.abort_cause
            await self.look_for_conflicts(job)
            stage = _MOVING[job.transition.direction]
            self._journal.write(journal.about_conflicts(job.transition.kid, stage, job.blockers))
        if not cause:
            return
        job.transition = await self.worker.run(self.engine.cancel, job.transition, cause)
        job.set_progress(Progress.TURNING_BACK)

    def _seconds_left(self, transition: Transition) -> float:
        """Return the seconds until the limit; no limit holds on the way back."""
        if transition.cancelled:
            return float("inf")
        age = self.engine.clock.monotonic() - transition.started
        return max(0.0, self.engine.settings.transition_limit - age)

    # --- what the engine tells ------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        """Take an event from the engine; this is the worker's thread."""
        if entry := journal.about_event(event):
            self._journal.write(entry)
        GLib.idle_add(self._show_event, event)

    def _show_event(self, event: Event) -> bool:
        if event.stage is Stage.REJECTED:
            return False  # a file was: it says nothing about an update of the same name
        if event.kid in self._updates:
            self._updates[event.kid].show_stage(event.stage, event.cause)
        elif event.kid and not self._is_show_due:  # at the first start there may be a thousand
            self._is_show_due = True
            coroutines.spawn(self._show_new())
        return False  # once

    async def _show_new(self) -> None:
        """Show what came by all the events until the worker gets to it."""
        await coroutines.sleep(_GATHER_SECONDS)
        await self.worker.run(self._begin_to_show)
        await self.show()

    def _begin_to_show(self) -> None:
        """Let later events be shown anew; they come from this thread, so none can be missed."""
        self._is_show_due = False

    async def show(self) -> None:
        """Show the updates; nobody waits for it, so an error goes to the journal."""
        try:
            await self.show_updates()
        except KspliceError as e:
            _log.error("the updates cannot be shown: %s", e)
        except Exception:  # whose turn it is must get to its end
            _log.exception("the updates cannot be shown")
