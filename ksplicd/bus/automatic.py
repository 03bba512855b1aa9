# SPDX-License-Identifier: GPL-2.0-only
"""What is applied and undone without a caller: dropped bundles, by policy, and what they replace.

What is wanted and not in the kernel (``host.updates.missing``) is applied: at a start, and when the
configuration is read again.  A failed apply is tried again
for as long as the update is wanted: when the code was busy, after ``retry-delay`` and from the
``retries``-th time on hourly; after a fault of the machine, in growing pauses; when an update
depends on another one, as soon as that is applied.

An update goes on top of those that it replaces, which are then undone below it, whoever applied it.
One that it would not match on top of is undone first, if nothing else is in the way; if the apply
then fails, the other update is applied again.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ksplicd.bus import coroutines
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.job import Job
from ksplicd.bus.jobs import Ended, Jobs
from ksplicd.bus.loop import call_later
from ksplicd.bus.names import DONE
from ksplicd.bus.patient_undo import PatientUndo
from ksplicd.bus.pauses import FIRST_SECONDS, pause_of_busy, pause_of_fault
from ksplicd.config import OnDrop
from ksplicd.errors import (
    AlreadyAppliedError,
    BundleError,
    CodeBusyError,
    InUseError,
    KspliceError,
    MissingDependencyError,
    NoSuchUpdateError,
    QuarantinedError,
    ReplayedError,
    SupersededError,
    WrongKernelError,
    by_abort_cause,
    cause_of,
)
from ksplicd.host.report.journal import Journal, about_held_back, about_missing
from ksplicd.host.stages import DAEMON, Actor, Direction, UpdateInfo, Via
from ksplicd.model import Stage

_log = logging.getLogger(__name__)

_NOT_BY_TIME: Final = (
    BundleError,
    QuarantinedError,
    ReplayedError,
    SupersededError,
    WrongKernelError,
)
"""What another try a while later ends in again: somebody has to change something first."""


def superseded(kid: str) -> str:
    """Return the history's note on an update that ``kid`` replaces."""
    return f"superseded by update {kid}"


class Automatic:
    """Updates that are applied or undone automatically."""

    def __init__(
        self,
        worker: EngineWorker,
        jobs: Jobs,
        why_disabled: Callable[[], str],
        journal: Journal,
        retry_seconds: float = FIRST_SECONDS,
    ) -> None:
        """``why_disabled`` returns what turns automatic applies off, or empty text.

        What is superseded is undone in any case: a caller has applied its successor.
        ``retry_seconds``: the first pause after a fault of the machine.
        """
        self._worker = worker
        self._engine = worker.engine
        self._jobs = jobs
        self._patient = PatientUndo(worker, jobs)
        self._why_disabled = why_disabled
        self._journal = journal
        self._waiting: dict[str, Actor] = {}
        """Updates that wait for the ones that they depend on."""
        self._queued: set[str] = set()
        """Updates that wait for their turn, or have it."""
        self._retry_seconds = retry_seconds
        self._tries: dict[str, int] = {}
        """Updates that failed, and how often in a row."""
        self._timed: set[str] = set()
        """Updates that have a timer."""
        jobs.on_ended.append(self._on_job_ended)

    # --- what is to be applied ------------------------------------------------------------------

    def apply(self, kid: str, actor: Actor) -> None:
        """Apply an update when its turn comes; calls until then count as one."""
        if kid not in self._queued:
            self._queued.add(kid)
            coroutines.spawn(self._apply(kid, actor))

    def show(self, infos: Iterable[UpdateInfo]) -> None:
        """Apply the updates that waited for those applied now."""
        by_kid = {info.kid: info for info in infos}
        applied = {kid for kid, info in by_kid.items() if info.stage is Stage.APPLIED}
        for kid, actor in list(self._waiting.items()):
            info = by_kid.get(kid)
            if info is None or applied.issuperset(info.manifest.depends):
                del self._waiting[kid]
                if info is not None:
                    self.apply(kid, actor)

    async def resume(self) -> None:
        """Go on after a start: undo what is superseded, apply what is wanted or was dropped."""
        await self._undo_all_superseded()
        await self.apply_missing()
        await self.apply_dropped()

    async def apply_missing(self) -> None:
        """Apply what is wanted and not in the kernel, unless policy says otherwise."""
        for kid, actor in await self._ask(self._engine.due):
            if actor.via is Via.BOOT and not self._engine.doors.settings.apply_at_boot:
                continue  # the boot said so
            info = await self._worker.get_update(kid)
            if kid in self._tries or info.stage is not Stage.FAILED:
                self.apply(kid, actor)
            else:  # it has just failed, at boot or before the daemon was restarted
                self._retry(kid, actor, by_abort_cause(info.abort_cause)(info.detail))

    async def apply_dropped(self) -> None:
        """Apply what was dropped and only staged, if that is the policy now.

        The daemon may have been killed before it was applied, or the policy have been another one.
        """
        if self._engine.doors.settings.on_drop is OnDrop.APPLY:
            for kid, actor in await self._ask(self._engine.staging.dropped):
                self.apply(kid, actor)

    async def _ask(self, which: Callable[[], list[tuple[str, Actor]]]) -> list[tuple[str, Actor]]:
        try:
            return await self._worker.run(which)
        except KspliceError as e:
            _log.error("which updates to apply is not known: %s", e)
            return []

    async def _apply(self, kid: str, actor: Actor) -> None:
        old: list[str] = []
        try:
            if why := self._why_not(actor):
                self._journal.write(about_held_back(kid, why))
                await self._unwant_unless_applied(kid, actor)
                return
            await self._worker.run(self._begin, kid, actor)
            old = await self._undo_first(kid, actor)
            job = await self._jobs.start(Direction.APPLY, kid, actor, if_wanted=True)
            if (result := await coroutines.Wait(job.ended)) == DONE:
                old = []
                self._tries.pop(kid, None)
                return
            failure: KspliceError = by_abort_cause(result)(f"{kid}: {result}")
        except (AlreadyAppliedError, NoSuchUpdateError):
            return  # another caller was quicker
        except KspliceError as e:
            failure = e
            if isinstance(e, InUseError):
                _log.warning("%s", e)
            else:
                await self._report(kid, e)
        finally:
            self._queued.discard(kid)
            await self._apply_again(old, actor)
        await self._go_on_after(kid, actor, failure)

    def _begin(self, kid: str, actor: Actor) -> None:
        """Want what was dropped, from now on; this is the worker's thread."""
        self._engine.staging.check_not_undone(kid)
        if actor.via is Via.DROP and self._engine.records.has(kid):
            self._engine.records.want(kid, actor)

    async def _unwant_unless_applied(self, kid: str, actor: Actor) -> None:
        """Want a dropped update no longer where the policy is to stage it."""
        if actor.via is Via.DROP and self._engine.doors.settings.on_drop is not OnDrop.APPLY:
            await self._worker.run(self._engine.records.unwant_new, kid)

    async def _go_on_after(self, kid: str, actor: Actor, failure: KspliceError) -> None:
        """See to it that a failed apply is tried again, if the update is still wanted."""
        if isinstance(failure, MissingDependencyError):
            self._waiting[kid] = actor
        elif isinstance(failure, SupersededError):
            await self._worker.run(self._engine.records.wants.end, kid)
        elif not isinstance(failure, _NOT_BY_TIME):
            is_wanted = await self._worker.run(self._engine.records.wants.__contains__, kid)
            if is_wanted:
                self._retry(kid, actor, failure)

    async def _report(self, kid: str, why: KspliceError) -> None:
        """Write to the journal why an update is not applied, unless the engine's event did."""
        with contextlib.suppress(NoSuchUpdateError):
            info = await self._worker.get_update(kid)
            if info.stage is not Stage.FAILED or str(why) not in info.detail:
                text = str(why).removeprefix(f"{kid}: ")
                self._journal.write(about_held_back(kid, text, cause_of(why), info.stage))

    def _why_not(self, actor: Actor) -> str:
        """Return what keeps an update from being applied now; empty when nothing does."""
        settings = self._engine.doors.settings
        if actor.via is Via.DROP and settings.on_drop is not OnDrop.APPLY:
            return "on-drop = stage in ksplicd.conf"
        if actor.via is Via.BOOT and not settings.apply_at_boot:
            return "apply-at-boot = no in ksplicd.conf"
        return self._why_disabled()

    def _retry(self, kid: str, actor: Actor, failure: KspliceError) -> None:
        """Try again after a pause, and have the journal say that the update is missing."""
        attempt = self._tries.get(kid, 0)
        if isinstance(failure, CodeBusyError | InUseError):
            pause = pause_of_busy(attempt, self._engine.doors.settings)
        else:
            pause = pause_of_fault(attempt, self._retry_seconds)
        if kid in self._timed:
            return
        self._timed.add(kid)
        self._tries[kid] = attempt + 1
        self._journal.write(about_missing(kid, str(failure), cause_of(failure), pause))
        call_later(pause, self._on_timer, kid, actor)

    def _on_timer(self, kid: str, actor: Actor) -> None:
        self._timed.discard(kid)
        coroutines.spawn(self._apply_if_wanted(kid, actor))

    async def _apply_if_wanted(self, kid: str, actor: Actor) -> None:
        if await self._worker.run(self._engine.records.wants.__contains__, kid):
            self.apply(kid, actor)

    # --- what it replaces, undone first ---------------------------------------------------------

    async def _undo_first(self, kid: str, actor: Actor) -> list[str]:
        """Undo, and return, what ``kid`` cannot go on top of, if nothing else is in its way."""
        undone: list[str] = []
        replaced = await self._worker.run(self._engine.order.to_undo_before, kid)
        if not replaced:
            return undone
        await self._worker.run(self._engine.check_apply, kid, replaced)
        try:
            for old in replaced:
                why = superseded(kid)
                job = await self._jobs.start(Direction.UNDO, old, actor, why=why)
                if (result := await coroutines.Wait(job.ended)) != DONE:
                    raise InUseError(f"{kid}: update {old} could not be undone: {result}")
                undone.append(old)
        except KspliceError:
            await self._apply_again(undone, actor)
            raise
        return undone

    async def _apply_again(self, kids: Sequence[str], actor: Actor) -> None:
        """Apply again what was undone for an update that is not applied after all."""
        for kid in reversed(kids):
            failure: KspliceError | None = None
            try:
                await self._worker.run(self._engine.records.want, kid, actor)
                job = await self._jobs.start(Direction.APPLY, kid, actor, if_wanted=True)
                if (result := await coroutines.Wait(job.ended)) != DONE:
                    failure = by_abort_cause(result)(f"{kid}: {result}")
            except AlreadyAppliedError:
                continue
            except KspliceError as e:
                failure = e
            if failure is not None:
                _log.error("%s: cannot be applied again: %s", kid, failure)
                await self._go_on_after(kid, actor, failure)

    # --- what it replaces, undone below it ------------------------------------------------------

    def _on_job_ended(self, job: Job, ended: Ended) -> None:
        if ended.result != DONE:
            return
        transition = job.transition
        if transition.direction is Direction.APPLY:
            coroutines.spawn(self._undo_superseded(transition.kid, transition.actor))
        else:  # the undone update may have depended on a superseded one
            coroutines.spawn(self._undo_all_superseded())

    async def _undo_all_superseded(self) -> None:
        """Undo what any applied update replaces."""
        try:
            infos = await self._worker.list_updates()
        except KspliceError as e:
            _log.error("which updates are superseded is not known: %s", e)
            return
        for info in infos:
            if info.stage is Stage.APPLIED and info.manifest.replaces:
                coroutines.spawn(self._undo_superseded(info.kid, DAEMON))

    async def _undo_superseded(self, kid: str, actor: Actor) -> None:
        """Undo what an applied update replaces: no task runs its code any more.

        Update ``kid`` lies on top of it, so that the old code does not run at any time.
        """
        await self._patient.undo(
            f"what update {kid} replaces",
            lambda: self._worker.run(self._engine.order.superseded_by, kid),
            actor,
            why=superseded(kid),
            below=kid,
        )
