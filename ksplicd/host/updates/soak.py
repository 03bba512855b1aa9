# SPDX-License-Identifier: GPL-2.0-only
"""What becomes of an update that is applied: its soak time, the kernel's complaints, a crash.

Here it is noted what has happened; what follows from that, by policy or a person's will, is asked
of the engine.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from ksplicd.errors import KernelWarningError, NotQuarantinedError
from ksplicd.host.kernel.kmsg import Complaint
from ksplicd.host.stages import (
    DAEMON,
    PASSING,
    Actor,
    Arrow,
    Event,
    UpdateInfo,
    Via,
    is_at_work,
    step,
)
from ksplicd.host.trust.verify import can_be_below
from ksplicd.host.updates.staging import Intake
from ksplicd.model import VMLINUX, Stage

_COMPLAINT: Final = KernelWarningError.abort_cause
_PRINTK_CLOCK: Final = 1.0
"""Seconds by which the clock of the kernel's log may differ from the monotonic one."""


@dataclass(eq=False, repr=False)
class Aftercare(Intake):
    """The crash guard, and who has to wait for whom."""

    _complaints: dict[str, Complaint] = field(default_factory=dict, init=False)
    """What the kernel complained of since an update was loaded."""

    # --- the crash guard ------------------------------------------------------------------------

    def soak(self) -> float:
        """Note which applied updates have run for their soak time.

        Returns the seconds until the next one has, or infinity.  Raises ``StoreError``.
        """
        self._book.catch_up()
        boot_id, now = self.kernel.boot_id(), self.clock.monotonic()
        return self._guard.watch(self._book.applied(), boot_id, now, self.settings.soak_time)

    def heed(self, kid: str, complaint: Complaint) -> bool:
        """Note that the kernel complains of an update in its soak time.

        Tells whether it is news: only the first complaint of an update is, since it was loaded.
        One that is on its way is recorded when it has arrived.  Raises ``StoreError``; what could
        not be written is known to ``complaint_of`` nevertheless.
        """
        stage = self._book.info(kid).stage
        if kid in self._complaints or not is_at_work(stage):
            return False
        if not self._is_young(kid, complaint.time) or self._recorded_complaint(kid):
            return False
        self._complaints[kid] = complaint
        if stage is Stage.APPLIED:
            self._record_complaint(kid)
        return True

    def complaint_of(self, kid: str) -> str:
        """Return what the kernel complained of, of an update that is in it; empty when of nothing.

        That is since it was loaded, by the history: also before this start of the daemon.
        """
        is_there = is_at_work(self._book.info(kid).stage)
        return self._recorded_complaint(kid) if is_there else ""

    def complaints(self) -> dict[str, str]:
        """Return the complaints of updates in their soak time, by kid."""
        boot_id, soaked = self.kernel.boot_id(), self._guard.read().soaked
        young = [kid for kid in self._book.kids() if soaked.get(kid) != boot_id]
        found = {kid: self.complaint_of(kid) for kid in young}
        return {kid: text for kid, text in found.items() if text}

    def _record_complaint(self, kid: str) -> None:
        """Record what the kernel complained of, if it did, now that the update is applied."""
        if kid not in self._complaints or self._recorded_complaint(kid):
            return
        complaint = self._complaints[kid]
        self._book.record(
            kid,
            Stage.APPLIED,
            DAEMON,
            cause=_COMPLAINT,
            detail=self._heard_of(kid),
            mismatch={"function": complaint.function, "target": complaint.module or VMLINUX},
        )

    def _heard_of(self, kid: str) -> str:
        """Return in words what the kernel complained of since an update was loaded, or nothing."""
        if kid not in self._complaints:
            return ""
        complaint = self._complaints[kid]
        where = complaint.function + (f" [{complaint.module}]" if complaint.module else "")
        return f"the kernel's log names {where}: {complaint.headline}"

    def _recorded_complaint(self, kid: str) -> str:
        """Return what the history says of a complaint since an update was loaded, or nothing."""
        for event in self._since_loaded(kid):
            if event.stage is Stage.APPLIED and event.cause == _COMPLAINT:
                return event.detail
        return ""

    def _is_young(self, kid: str, when: float) -> bool:
        """Tell whether an update was loaded, and in its soak time, ``when`` seconds after boot."""
        boot_id = self.kernel.boot_id()
        if not self.settings.soak_time or self._guard.read().soaked.get(kid) == boot_id:
            return False
        booted = self.clock.time() - self.clock.monotonic()
        for event in self._since_loaded(kid):
            if event.stage is Stage.LOADING:
                return when >= event.time - booted - _PRINTK_CLOCK
        return True

    def _since_loaded(self, kid: str) -> Iterator[Event]:
        """Yield an update's events of this boot, newest first, down to that of its load."""
        for event in self._book.back():
            if event.boot_id != self.kernel.boot_id():
                return
            if event.kid == kid:
                yield event
                if event.stage is Stage.LOADING:
                    return

    def superseded_by(self, kid: str) -> list[str]:
        """Return the applied updates that an update is instead of, in the order of undoing them.

        What another one depends on, which it is not instead of, is not among them: that one is
        wanted.
        """
        applied, old = self._book.applied(), self._book.manifest(kid).replaces
        orders = [self.undo_order(other) for other in old if other in applied]
        free = (order for order in orders if {*order} <= {*old, kid})
        return [each for each in dict.fromkeys(chain(*free)) if each != kid]

    def in_the_way_of(self, kid: str) -> list[str]:
        """Return those of them that have to be undone before it is applied."""
        replaced = self.superseded_by(kid)
        if all(can_be_below(self._book.manifest(old)) for old in replaced):
            return []
        return replaced

    def undo_order(self, kid: str) -> list[str]:
        """Return the applied updates that have to be undone to undo ``kid``, which comes last."""
        left = {other: self._depends(other) for other in self._book.applied()}
        order: list[str] = []

        def visit(this: str) -> None:
            left.pop(this, None)
            for other, depends in list(left.items()):
                if this in depends and other in left:
                    visit(other)
            order.append(this)

        visit(kid)
        return order

    def mark_clean(self) -> None:
        """Note that the machine is being shut down.  Raises ``StoreError``."""
        self._guard.mark_clean(self.kernel.boot_id(), self._book.boots())

    def release(self, kid: str, actor: Actor) -> UpdateInfo:
        """Let a quarantined update be applied again.

        Raises ``NoSuchUpdateError``, ``NotQuarantinedError``.
        """
        info = self.get_update(kid)
        if info.stage is not Stage.QUARANTINED:
            raise NotQuarantinedError(f"{kid}: is {info.stage}, not quarantined")
        detail = f"released; it was quarantined because {info.detail}"
        self._book.record(kid, step(info.stage, Arrow.RELEASE), actor, detail=detail)
        return self._book.info(kid)

    def dropped(self) -> list[tuple[str, Actor]]:
        """Return what came from the drop directory and has only been staged; with the actor."""
        lasts = [self._book.last(kid) for kid in self.store.kids()]
        return [
            (last.kid, last.actor)
            for last in lasts
            if last is not None and last.stage is Stage.STAGED and last.actor.via is Via.DROP
        ]

    def to_retry(self) -> list[tuple[str, Actor]]:
        """Return what failed in this boot for now only, and nobody had waited for it.

        Its code was busy, or another live patch was on its way; it came from the drop directory or
        was to come back at boot.  What was to come back and depends on such a one is returned after
        it.  With the actor.
        """
        boot_id, found = self.kernel.boot_id(), dict[str, Actor]()
        lasts = [self._book.last(kid) for kid in self._book.in_order() if self.store.has(kid)]
        for last in filter(None, lasts):
            is_passing = last.stage is Stage.FAILED and last.cause in PASSING
            is_alone = last.actor.via in {Via.DROP, Via.BOOT}
            if last.boot_id == boot_id and is_passing and is_alone:
                found[last.kid] = last.actor
        for last in filter(None, lasts):
            if last.stage is Stage.APPLIED and last.boot_id != boot_id:
                ahead = [found[kid] for kid in self._depends(last.kid) if kid in found]
                if any(actor.via is Via.BOOT for actor in ahead):
                    found[last.kid] = ahead[0]
        return list(found.items())

    def _depends(self, kid: str) -> tuple[str, ...]:
        return self._book.manifest(kid).depends
