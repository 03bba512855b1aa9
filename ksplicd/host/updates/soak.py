# SPDX-License-Identifier: GPL-2.0-only
"""What happens to an update in its soak time: the kernel's complaints, a crash, or nothing.

It is only recorded here.  Whether an update is undone because of it is for a policy or a person to
decide, through the engine.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Final

from ksplicd.errors import KernelWarningError, StoreError
from ksplicd.host.kernel.kmsg import Complaint
from ksplicd.host.stages import DAEMON, Event, is_at_work
from ksplicd.host.store.crash_guard import Guard, Known, why_quarantined
from ksplicd.host.updates.doors import Doors
from ksplicd.host.updates.records import Records
from ksplicd.model import VMLINUX, Stage

_log = logging.getLogger(__name__)

_COMPLAINT: Final = KernelWarningError.abort_cause
_PRINTK_CLOCK: Final = 1.0
"""Seconds by which the clock of the kernel's log may differ from the monotonic one."""


class Soak:
    """The crash guard, and the kernel's complaints of updates that are new."""

    def __init__(self, doors: Doors, records: Records) -> None:
        self._doors = doors
        self._records = records
        self._guard = Guard(doors.store.guard_file, doors.store.reserve)
        self._complaints: dict[str, Complaint] = {}
        """Kid → the first complaint since the update was loaded."""

    def forget(self, kid: str, *, keep_chance: bool = False) -> None:
        """Start anew with an update that is about to be loaded or was removed.

        ``keep_chance`` is as for ``Guard.forget``.  Raises ``StoreError``.
        """
        self._complaints.pop(kid, None)
        self._guard.forget(kid, keep_chance=keep_chance)

    # --- the crash guard ------------------------------------------------------------------------

    def begin(self) -> Known:
        """Note that this boot goes on, and return what is known of earlier boots.

        Raises ``StoreError``.
        """
        self._guard.begin(self._doors.kernel.boot_id())
        return self._guard.read()

    def why_quarantined(self, last: Event, known: Known) -> str:
        """Return why an update with this last event, of an earlier boot, must wait for a person.

        Where nothing shows that the machine crashed, this boot is allowed as a chance, once: the
        power may have been cut.
        """
        why = why_quarantined(last, known, self._doors.settings.soak_time)
        if not why:
            return ""
        if trace := self._doors.find_crash(last.boot_id, last.time):
            return f"{why}, and {trace}"
        if known.chances.get(last.kid) == last.boot_id:
            return f"{why}, for the second time in a row"
        try:
            self._guard.give_chance(last.kid, self._doors.kernel.boot_id())
        except StoreError as e:
            return f"{why}, and one more boot with it cannot be counted: {e}"
        _log.warning(
            "%s: %s; as nothing shows a crash, one more boot with it is allowed", last.kid, why
        )
        return ""

    def watch(self) -> float:
        """Note which applied updates have run for their soak time.

        Returns the seconds until the next one has, or infinity.  Raises ``StoreError``.
        """
        self._records.catch_up()
        self._doors.store.reserve.keep()
        boot_id, now = self._doors.kernel.boot_id(), self._doors.clock.monotonic()
        applied = self._records.applied()
        return self._guard.watch(applied, boot_id, now, self._doors.settings.soak_time)

    def mark_clean(self) -> None:
        """Note that the machine is being shut down.  Raises ``StoreError``."""
        self._guard.mark_clean(self._doors.kernel.boot_id(), self._records.boots())

    def is_proven(self, kid: str) -> bool:
        """Return whether an update has run for its soak time in some boot."""
        return kid in self._guard.read().soaked

    def soaked(self) -> frozenset[str]:
        """Return the updates that have run for their soak time in this boot, as far as is known."""
        boot_id = self._doors.kernel.boot_id()
        with contextlib.suppress(StoreError):  # whoever records it reports that
            known = self._guard.read().soaked
            return frozenset(kid for kid, boot in known.items() if boot == boot_id)
        return frozenset()

    # --- the kernel's complaints ----------------------------------------------------------------

    def record_complaint(self, kid: str, complaint: Complaint) -> bool:
        """Record that the kernel complains of an update in its soak time.

        Returns whether this is news: only the first complaint since an update was loaded is.  The
        complaint of an update in transition is recorded when the transition ends.  Raises
        ``StoreError``; ``complaint_of`` returns also a complaint that could not be written.
        """
        stage = self._records.info(kid).stage
        if kid in self._complaints or not is_at_work(stage):
            return False
        if not self._is_young(kid, complaint.time) or self._recorded_complaint(kid):
            return False
        self._complaints[kid] = complaint
        if stage is Stage.APPLIED:
            self.record_pending(kid)
        return True

    def record_pending(self, kid: str) -> None:
        """Record the complaint of an applied update, if there is one and it is not recorded yet."""
        if kid not in self._complaints or self._recorded_complaint(kid):
            return
        complaint = self._complaints[kid]
        self._records.record(
            kid,
            Stage.APPLIED,
            DAEMON,
            cause=_COMPLAINT,
            detail=self.describe_pending(kid),
            mismatch={"function": complaint.function, "target": complaint.module or VMLINUX},
        )

    def describe_pending(self, kid: str) -> str:
        """Return the sentence for the complaint since an update was loaded, or empty text."""
        if kid not in self._complaints:
            return ""
        complaint = self._complaints[kid]
        where = complaint.function + (f" [{complaint.module}]" if complaint.module else "")
        return f"the kernel's log names {where}: {complaint.headline}"

    def complaint_of(self, kid: str) -> str:
        """Return the complaint of an update that is at work, or empty text.

        The history has it also from an earlier run of the daemon.
        """
        is_there = is_at_work(self._records.info(kid).stage)
        return self._recorded_complaint(kid) if is_there else ""

    def complaints(self) -> dict[str, str]:
        """Return the complaints of updates in their soak time, by kid."""
        boot_id, soaked = self._doors.kernel.boot_id(), self._guard.read().soaked
        young = [kid for kid in self._records.kids() if soaked.get(kid) != boot_id]
        found = {kid: self.complaint_of(kid) for kid in young}
        return {kid: text for kid, text in found.items() if text}

    # --- detail ---------------------------------------------------------------------------------

    def _recorded_complaint(self, kid: str) -> str:
        """Return the complaint that the history has since an update was loaded, or empty text."""
        for event in self._since_loaded(kid):
            if event.stage is Stage.APPLIED and event.cause == _COMPLAINT:
                return event.detail
        return ""

    def _is_young(self, kid: str, when: float) -> bool:
        """Return whether an update was loaded and soaking ``when`` seconds after the boot."""
        boot_id = self._doors.kernel.boot_id()
        if not self._doors.settings.soak_time or self._guard.read().soaked.get(kid) == boot_id:
            return False
        for event in self._since_loaded(kid):
            if event.stage is Stage.LOADING:
                return when >= self._since_boot(event) - _PRINTK_CLOCK
        return True

    def _since_boot(self, event: Event) -> float:
        """Return how long this boot had lasted at an event of it.

        The clock may have been put forward or back since; an older version wrote its time only.
        """
        clock = self._doors.clock
        return event.up if event.up is not None else event.time - (clock.time() - clock.monotonic())

    def _since_loaded(self, kid: str) -> Iterator[Event]:
        """Yield the events of an update in this boot, newest first, back to its load."""
        for event in self._records.events():
            if event.boot_id != self._doors.kernel.boot_id():
                return
            if event.kid == kid:
                yield event
                if event.stage is Stage.LOADING:
                    return
