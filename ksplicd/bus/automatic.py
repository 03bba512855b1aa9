# SPDX-License-Identifier: GPL-2.0-only
"""What is applied without anybody waiting for it: dropped bundles, by policy.

Nobody is there to try again, so we do: when the code was busy, after ``retry-delay``, at most
``retries`` times; when an update depends on another one, as soon as that is applied.  What failed
so at boot, or before the daemon was restarted, is tried again too.

An update goes on top of those that it is instead of, which are then taken out below it
(``runner.py``).  Where it would not match on top of one, that is undone first, when all else allows
it; should the update not come to be applied, the other one is applied again.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from gi.repository import GLib

from ksplicd.bus import coroutines
from ksplicd.bus.job import DONE
from ksplicd.bus.runner import Runner, superseded
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
from ksplicd.host.report import journal
from ksplicd.host.stages import Actor, Direction, UpdateInfo, Via
from ksplicd.model import Stage

_log = logging.getLogger(__name__)

BUSY: Final = CodeBusyError.abort_cause


class Automatic:
    """Updates that are to be applied by themselves."""

    def __init__(
        self, runner: Runner, why_disabled: Callable[[], str], book: journal.Journal
    ) -> None:
        """``why_disabled`` tells what turns the service off; it is asked each time."""
        self._runner = runner
        self._book = book
        self._why_disabled = why_disabled
        self._engine = runner.engine
        self._wanting: dict[str, Actor] = {}
        """Updates that wait for others which they depend on."""
        self._queued: set[str] = set()
        """Updates that wait for their turn, or have it."""

    def apply(self, kid: str, actor: Actor, attempt: int = 0) -> None:
        """Apply an update when its turn comes, once, however often that is asked for till then."""
        if kid not in self._queued:
            self._queued.add(kid)
            coroutines.spawn(self._apply(kid, actor, attempt))

    def show(self, infos: Iterable[UpdateInfo]) -> None:
        """Apply what had to wait for the updates that are applied now."""
        by_kid = {info.kid: info for info in infos}
        applied = {kid for kid, info in by_kid.items() if info.stage is Stage.APPLIED}
        for kid, actor in list(self._wanting.items()):
            info = by_kid.get(kid)
            if info is None or applied.issuperset(info.manifest.depends):
                del self._wanting[kid]
                if info is not None:
                    self.apply(kid, actor)

    async def resume(self) -> None:
        """Try again what was busy at boot, or before the daemon was restarted."""
        await self._runner.take_out_all_superseded()
        for kid, actor in await self._ask(self._engine.to_retry):
            self._retry(kid, actor, 0)
        await self.apply_dropped()

    async def apply_dropped(self) -> None:
        """Apply what was dropped before, by the settings that hold now.

        That is what a killed daemon did not get to, and what came under another policy.
        """
        if self._engine.settings.on_drop is OnDrop.APPLY:
            for kid, actor in await self._ask(self._engine.dropped):
                self.apply(kid, actor)

    async def _ask(self, which: Callable[[], list[tuple[str, Actor]]]) -> list[tuple[str, Actor]]:
        try:
            return await self._runner.worker.run(which)
        except KspliceError as e:
            _log.error("what is to be applied cannot be told: %s", e)
            return []

    async def _apply(self, kid: str, actor: Actor, attempt: int) -> None:
        old: list[str] = []
        try:
            if why := self._why_not(actor):
                self._book.write(journal.about_held_back(kid, why))
                return
            await self._runner.worker.run(self._engine.check_not_undone, kid)
            old = await self._undo_first(kid, actor)
            job = await self._runner.start(Direction.APPLY, kid, actor)
            result = await coroutines.Wait(job.ended)
            is_busy = result == BUSY
            if result == DONE:
                old = []
        except MissingDependencyError as e:
            self._wanting[kid] = actor
            await self._tell(kid, e)
            return
        except (AlreadyAppliedError, NoSuchUpdateError):
            return  # somebody was quicker
        except InUseError as e:
            _log.warning("%s", e)
            is_busy = True
        except KspliceError as e:
            await self._tell(kid, e)
            return
        finally:
            self._queued.discard(kid)
            await self._bring_back(old, actor)
        if is_busy:
            self._retry(kid, actor, attempt)

    async def _tell(self, kid: str, why: KspliceError) -> None:
        """Tell the journal why an update is not applied; once it was loaded, the engine did."""
        with contextlib.suppress(NoSuchUpdateError):
            info = await self._runner.get_update(kid)
            if info.stage is not Stage.FAILED or str(why) not in info.detail:
                text = str(why).removeprefix(f"{kid}: ")
                self._book.write(journal.about_held_back(kid, text, cause_of(why), info.stage))

    def _why_not(self, actor: Actor) -> str:
        """Tell which setting, as it is now, keeps an update from being applied; or nothing."""
        settings = self._engine.settings
        if actor.via is Via.DROP and settings.on_drop is not OnDrop.APPLY:
            return "on-drop = stage in ksplicd.conf"
        if actor.via is Via.BOOT and not settings.apply_at_boot:
            return "apply-at-boot = no in ksplicd.conf"
        return self._why_disabled()

    async def _undo_first(self, kid: str, actor: Actor) -> list[str]:
        """Undo what an update is instead of, if that alone is in its way."""
        undone: list[str] = []
        replaced = await self._runner.worker.run(self._engine.in_the_way_of, kid)
        if not replaced:
            return undone
        await self._runner.worker.run(self._engine.check_apply, kid, replaced)
        try:
            for old in replaced:
                why = superseded(kid)
                job = await self._runner.start(Direction.UNDO, old, actor, why=why)
                if (result := await coroutines.Wait(job.ended)) != DONE:
                    raise InUseError(f"{kid}: update {old} could not be undone: {result}")
                undone.append(old)
        except KspliceError:
            await self._bring_back(undone, actor)
            raise
        return undone

    async def _bring_back(self, kids: Sequence[str], actor: Actor) -> None:
        """Apply again what was undone for nothing."""
        for kid in reversed(kids):
            try:
                job = await self._runner.start(Direction.APPLY, kid, actor)
                await coroutines.Wait(job.ended)
            except KspliceError as e:
                _log.error("%s: cannot be applied again: %s", kid, e)

    def _retry(self, kid: str, actor: Actor, attempt: int) -> None:
        settings = self._engine.settings
        if attempt < settings.retries:
            _log.info("%s: is tried again in %d s", kid, settings.retry_delay)
            GLib.timeout_add_seconds(settings.retry_delay, self._on_timer, kid, actor, attempt + 1)

    def _on_timer(self, kid: str, actor: Actor, attempt: int) -> bool:
        self.apply(kid, actor, attempt)
        return False  # once
