# SPDX-License-Identifier: GPL-2.0-only
"""What is applied and undone without a caller: dropped bundles, by policy, and what they replace.

A failed apply is tried again: when the code was busy, after ``retry-delay``, at most ``retries``
times; when an update depends on another one, as soon as that is applied.  This holds also for what
failed at boot, or before the daemon was restarted.

An update goes on top of those that it replaces, which are then undone below it, whoever applied it.
One that it would not match on top of is undone first, if nothing else is in the way; if the apply
then fails, the other update is applied again.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence

from gi.repository import GLib

from ksplicd.bus import coroutines
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.job import Job
from ksplicd.bus.jobs import Ended, Jobs
from ksplicd.bus.names import DONE
from ksplicd.bus.patient_undo import PatientUndo
from ksplicd.config import OnDrop
from ksplicd.errors import (
    AlreadyAppliedError,
    CodeBusyError,
    InUseError,
    KspliceError,
    MissingDependencyError,
    NoSuchUpdateError,
    cause_of,
)
from ksplicd.host.report.journal import Journal, about_held_back
from ksplicd.host.stages import DAEMON, Actor, Direction, UpdateInfo, Via
from ksplicd.model import Stage

_log = logging.getLogger(__name__)


def superseded(kid: str) -> str:
    """Return the history's note on an update that ``kid`` replaces."""
    return f"superseded by update {kid}"


class Automatic:
    """Updates that are applied or undone automatically."""

    def __init__(
        self, worker: EngineWorker, jobs: Jobs, why_disabled: Callable[[], str], journal: Journal
    ) -> None:
        """``why_disabled`` returns what turns automatic applies off, or empty text.

        What is superseded is undone in any case: a caller has applied its successor.
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
        jobs.on_ended.append(self._on_job_ended)

    # --- what is to be applied ------------------------------------------------------------------

    def apply(self, kid: str, actor: Actor, attempt: int = 0) -> None:
        """Apply an update when its turn comes; calls until then count as one."""
        if kid not in self._queued:
            self._queued.add(kid)
            coroutines.spawn(self._apply(kid, actor, attempt))

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
        """Try again what failed at boot, or before the daemon was restarted."""
        await self._undo_all_superseded()
        for kid, actor in await self._ask(self._engine.order.to_retry):
            self._retry(kid, actor, 0)
        await self.apply_dropped()

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

    async def _apply(self, kid: str, actor: Actor, attempt: int) -> None:
        old: list[str] = []
        try:
            if why := self._why_not(actor):
                self._journal.write(about_held_back(kid, why))
                return
            await self._worker.run(self._engine.staging.check_not_undone, kid)
            old = await self._undo_first(kid, actor)
            job = await self._jobs.start(Direction.APPLY, kid, actor)
            result = await coroutines.Wait(job.ended)
            is_busy = result == CodeBusyError.abort_cause
            if result == DONE:
                old = []
        except MissingDependencyError as e:
            self._waiting[kid] = actor
            await self._report(kid, e)
            return
        except (AlreadyAppliedError, NoSuchUpdateError):
            return  # another caller was quicker
        except InUseError as e:
            _log.warning("%s", e)
            is_busy = True
        except KspliceError as e:
            await self._report(kid, e)
            return
        finally:
            self._queued.discard(kid)
            await self._apply_again(old, actor)
        if is_busy:
            self._retry(kid, actor, attempt)

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

    def _retry(self, kid: str, actor: Actor, attempt: int) -> None:
        settings = self._engine.doors.settings
        if attempt < settings.retries:
            _log.info("%s: is tried again in %d s", kid, settings.retry_delay)
            GLib.timeout_add_seconds(settings.retry_delay, self._on_timer, kid, actor, attempt + 1)

    def _on_timer(self, kid: str, actor: Actor, attempt: int) -> bool:
        self.apply(kid, actor, attempt)
        return False  # once

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
            try:
                job = await self._jobs.start(Direction.APPLY, kid, actor)
                await coroutines.Wait(job.ended)
            except KspliceError as e:
                _log.error("%s: cannot be applied again: %s", kid, e)

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
