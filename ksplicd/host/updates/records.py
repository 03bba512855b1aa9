# SPDX-License-Identifier: GPL-2.0-only
"""The records of the updates: the last event and the verified manifest of each.

The history, the bundles and what is wanted are on disk.  Where an update *is* follows from its last
event and from the kernel, which wins (``stages.settle``); it is derived anew for each question.
What an update may do next is not decided here.
"""

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from ksplicd.errors import NoSuchUpdateError, StoreError, WrongKernelError
from ksplicd.host.report.metrics import Meter
from ksplicd.host.stages import (
    Actor,
    Event,
    Standing,
    UpdateInfo,
    is_at_work,
    is_moving,
    settle,
)
from ksplicd.host.store.history import History, is_lasting
from ksplicd.host.store.wanted import WantedFile
from ksplicd.host.trust.verify import Trusted
from ksplicd.host.updates.doors import Doors
from ksplicd.host.updates.fit import check_kernel
from ksplicd.host.updates.wants import Wants
from ksplicd.model import Kernel, Manifest, Stage, is_kid, new_module

_log = logging.getLogger(__name__)

_MAX_DETAIL: Final = 10_000
"""Characters; a thousand tasks may hold a transition up, and a description has no limit."""
_LATER: Final = 0.001
"""Seconds."""
_NEW_MODULE: Final = re.compile(r"ksplice_([a-z0-9]{8})_new")


class Records:
    """The records of the updates in the store, and of those in the kernel without a bundle."""

    def __init__(self, doors: Doors) -> None:
        """Nothing is read before ``open``."""
        self._doors = doors
        self._history = History(
            doors.store.history_file,
            keep=lambda: doors.settings.limits()["history"],
            reserve=doors.store.reserve,
        )
        self.wants = Wants(WantedFile(doors.store.wanted_file, doors.store.reserve))
        self._last: dict[str, Event] = {}
        self._arrived: dict[str, Event] = {}
        """Kid → the first of its last events that have one stage."""
        self._newest = 0.0
        """The latest time of an event."""
        self.meter = Meter()
        self._trusted: dict[str, Trusted] = {}
        self._distrusted: dict[str, tuple[str, str]] = {}
        """Kid → abort cause and message of the error that its bundle gives."""

    def open(self) -> None:
        """Read the history back to the last event of every update, and at least two files of it.

        And read what is wanted.  Raises ``StoreError``.
        """
        self._last, self.meter, self._history.damage = {}, Meter(), ""
        self._arrived = {}
        unknown = {*self._doors.store.kids(), *self._in_kernel()}
        files: list[list[Event]] = []
        for events in self._history.read_back():
            files.append(events)
            unknown -= {event.kid for event in events if event.stage is not Stage.REJECTED}
            if not unknown and len(files) > 1:
                break
        for events in reversed(files):
            for event in events:
                self._note(event)
        stored = {*self._doors.store.kids(), *self._in_kernel()}
        lasts = {kid: event for kid, event in self._last.items() if kid in stored}
        self.wants.open(lasts, self._was_applied)

    def _was_applied(self, kid: str) -> bool:
        """Return whether an update was applied last; not where that cannot be read."""
        with contextlib.suppress(StoreError):
            return self.last_word(kid) is Stage.APPLIED
        return False

    @property
    def damage(self) -> str:
        """The part of the history that cannot be read, and why; empty when there is none."""
        return self._history.damage

    # --- questions ------------------------------------------------------------------------------

    def kids(self) -> list[str]:
        """Return the updates that are stored, in the kernel, or moving; sorted."""
        moving = {kid for kid, event in self._last.items() if self._is_moving(event)}
        return sorted({*self._doors.store.kids(), *self._in_kernel(), *moving})

    def has(self, kid: str) -> bool:
        """Return whether ``kid``, which may be any text from a caller, is one of ``kids()``."""
        if not is_kid(kid):
            return False  # before a path is made from it
        last = self._last.get(kid)
        is_moving = last is not None and self._is_moving(last)
        return is_moving or self._doors.store.has(kid) or self.is_in_kernel(kid)

    def get(self, kid: str) -> UpdateInfo:
        """Return an update as it is now.  Raises ``NoSuchUpdateError``."""
        if not self.has(kid):
            raise NoSuchUpdateError(f"{kid}: no update of this id is known here")
        return self.info(kid)

    def info(self, kid: str) -> UpdateInfo:
        """Return an update as it is now, also one without any record."""
        return self._info(kid, self.is_in_kernel(kid))

    def infos(self) -> list[UpdateInfo]:
        """Return every update as it is now, by kid."""
        in_kernel = self._in_kernel()
        return [self._info(kid, kid in in_kernel) for kid in self.kids()]

    def _info(self, kid: str, is_in_kernel: bool) -> UpdateInfo:  # noqa: FBT001
        standing = self._standing(kid, is_in_kernel)
        since, since_up = self._since(kid, standing.stage)
        return UpdateInfo(
            kid=kid,
            stage=standing.stage,
            abort_cause=standing.cause,
            detail=standing.detail,
            manifest=self.manifest(kid),
            is_wanted=kid in self.wants,
            since=since,
            since_up=since_up,
        )

    def _since(self, kid: str, stage: Stage) -> tuple[float, float]:
        """Return when an update came to its stage, on both clocks; 0: not in this boot, unknown."""
        event = self._arrived.get(kid)
        if event is None or event.stage is not stage:
            return 0.0, 0.0
        is_of_here = event.boot_id == self._doors.kernel.boot_id()
        if not is_of_here and is_at_work(stage):
            return 0.0, 0.0
        return event.time, (event.up or 0.0) if is_of_here else 0.0

    def applied(self) -> list[str]:
        """Return the updates that are applied, sorted."""
        return [kid for kid in sorted(self._in_kernel()) if self.info(kid).stage is Stage.APPLIED]

    def is_in_kernel(self, kid: str) -> bool:
        """Return whether the kernel knows the livepatch of an update."""
        return self._doors.kernel.livepatch(new_module(kid)) is not None

    def in_order(self) -> list[str]:
        """Return every update with a record, in the order of their last events."""
        return list(self._last)

    def boots(self) -> set[str]:
        """Return the boots of the last events."""
        return {event.boot_id for event in self._last.values()}

    def last(self, kid: str) -> Event | None:
        """Return the last event of an update, from whatever boot."""
        return self._last.get(kid)

    def trusted(self, kid: str) -> Trusted | None:
        """Return a verified bundle without its files, or None when it did not verify."""
        return self._trusted.get(kid)

    def manifest(self, kid: str) -> Manifest:
        """Return the verified manifest, or one with nothing but the kid."""
        if kid in self._trusted:
            return self._trusted[kid].bundle.manifest
        return Manifest(
            kid=kid,
            kernel=Kernel(release="", build_id=""),
            core_file="",
            targets=(),
            description="(its bundle is not stored here, or does not verify)",
        )

    def now(self) -> float:
        """Return the time for what ends at a time, such as a key: seconds since 1970.

        A clock without a battery begins anew at each boot.  It is never before the last event that
        is known, and not before this package was built.
        """
        clock = self._doors.clock
        return max(clock.time(), clock.earliest(), self._newest)

    def events(self) -> Iterator[Event]:
        """Yield the whole history, newest event first, reading one file at a time."""
        self.catch_up()
        for events in self._history.read_back():
            yield from reversed(events)

    def last_word(self, kid: str) -> Stage | None:
        """Return APPLIED, REVERSED or QUARANTINED, whichever an update was last, or None.

        The whole history counts: the bundle may have been removed and staged again since.  What
        became of another bundle that had the id without the right to it does not.  Raises
        ``StoreError`` when a part of it cannot be read.
        """
        for events in self._history.read_back(whole=True):
            for event in reversed(events):
                if event.kid == kid and is_lasting(event):
                    return None if event.stage is Stage.REMOVED else event.stage
        return None

    def catch_up(self) -> bool:
        """Write what could not be written before, if that is possible now.

        Returns whether all is written.
        """
        is_written = False
        with contextlib.suppress(StoreError):  # raised when the event happened
            self._history.catch_up()
            is_written = True
        return self.wants.catch_up() and is_written

    # --- entries --------------------------------------------------------------------------------

    def trust(self, kid: str, trusted: Trusted) -> None:
        """Keep a verified bundle, without its files and their digests."""
        manifest = replace(trusted.bundle.manifest, files={})
        bundle = replace(trusted.bundle, manifest=manifest, files={}, changes=(), modules=())
        self._trusted[kid] = replace(trusted, bundle=bundle)
        self._distrusted.pop(kid, None)

    def distrust(self, kid: str, cause: str, why: str) -> None:
        """Note that the stored bundle no longer verifies.

        The manifest of an update in the kernel is kept if it was verified before.
        """
        if not self.is_in_kernel(kid):
            self._trusted.pop(kid, None)
        self._distrusted[kid] = cause, why

    def forget(self, kid: str) -> None:
        """Drop the manifest of a bundle that was deleted."""
        self._trusted.pop(kid, None)
        self._distrusted.pop(kid, None)

    def record(
        self,
        kid: str,
        stage: Stage,
        actor: Actor,
        *,
        cause: str = "",
        detail: str = "",
        mismatch: Mapping[str, str] | None = None,
    ) -> None:
        """Write an event to the history and report it.

        An event that cannot be written (``StoreError``) is reported all the same, and holds until
        the daemon stops.  A rejected file changes nothing about the update that it is named after.
        """
        if len(detail) > _MAX_DETAIL:
            detail = f"{detail[:_MAX_DETAIL]}…"
        event = Event(
            time=self._doors.clock.time(),
            boot_id=self._doors.kernel.boot_id(),
            kid=kid,
            stage=stage,
            cause=cause,
            detail=detail,
            actor=actor,
            mismatch=mismatch or {},
            up=self._doors.clock.monotonic(),
        )
        self._note(event)
        try:
            self._history.append(event)
        finally:
            if event.stage is not Stage.REJECTED:
                self.wants.note(event, self.manifest(kid).kernel)
            self._doors.on_event(event)

    def record_if_possible(
        self, kid: str, stage: Stage, actor: Actor, *, cause: str = "", detail: str = ""
    ) -> None:
        """Write an event, or have it hold until the daemon stops; a failure goes to the log."""
        try:
            self.record(kid, stage, actor, cause=cause, detail=detail)
        except StoreError as e:
            _log.error("%s: is %s, which cannot be written down yet: %s", kid, stage, e)

    def want(self, kid: str, actor: Actor) -> None:
        """Want an update from now on, because of policy, whatever becomes of it."""
        last = self._last.get(kid)
        event = Event(
            # later than an undo, though the clock was put back meanwhile
            time=max(self._doors.clock.time(), last.time + _LATER if last is not None else 0),
            boot_id=self._doors.kernel.boot_id(),
            kid=kid,
            stage=self.info(kid).stage,
            actor=actor,
        )
        self.wants.begin(event, self.manifest(kid).kernel)

    def unwant_new(self, kid: str) -> None:
        """Want an update no longer, unless it has been applied since it was wanted."""
        if not any(want.is_applied for want in self.wants if want.kid == kid):
            self.wants.end(kid)

    # --- detail ---------------------------------------------------------------------------------

    def _in_kernel(self) -> set[str]:
        """Return the updates that the kernel knows."""
        names = map(_NEW_MODULE.fullmatch, self._doors.kernel.livepatches())
        return {name[1] for name in names if name}

    def _note(self, event: Event) -> None:
        """Keep an event as the last one of its update, and the last one of all."""
        self.meter.note(event)
        self._newest = max(self._newest, event.time)
        if event.stage is not Stage.REJECTED:
            last = self._last.pop(event.kid, None)
            if last is None or (last.stage, last.boot_id) != (event.stage, event.boot_id):
                self._arrived[event.kid] = event
            self._last[event.kid] = event

    def _is_moving(self, last: Event) -> bool:
        return last.boot_id == self._doors.kernel.boot_id() and is_moving(last.stage)

    def _standing(self, kid: str, is_in_kernel: bool) -> Standing:  # noqa: FBT001
        """Return where an update is; the kernel is asked only about updates that it knows."""
        last = self._last.get(kid)
        if last is not None and self._is_moving(last):
            return Standing(stage=last.stage, cause=last.cause, detail=last.detail)
        livepatch = self._doors.kernel.livepatch(new_module(kid)) if is_in_kernel else None
        if livepatch is not None and livepatch.transition:
            stage = Stage.TRANSITIONING if livepatch.enabled else Stage.REVERSING
            return Standing(stage=stage, detail="moved by somebody else")
        is_enabled = livepatch is not None and livepatch.enabled
        distrusted = self._distrusted.get(kid)
        if distrusted is not None and not is_enabled:
            return Standing(stage=Stage.REJECTED, detail=distrusted[1])
        standing = settle(last, self._doors.kernel.boot_id(), is_enabled=is_enabled)
        if distrusted is not None and not standing.cause:
            cause, why = distrusted
            detail = f"its bundle no longer verifies: {why}"
            return Standing(stage=standing.stage, cause=cause, detail=detail)
        if standing.stage is Stage.STAGED:
            texts = (standing.detail, self.why_other_kernel(kid))
            return replace(standing, detail="; ".join(text for text in texts if text))
        return standing

    def why_other_kernel(self, kid: str) -> str:
        """Return which other kernel a verified update is for; empty when it is for this one."""
        try:
            if kid in self._trusted:
                check_kernel(self._trusted[kid].bundle.manifest, self._doors.kernel)
        except WrongKernelError as e:
            return f"waits: {e}"
        return ""
