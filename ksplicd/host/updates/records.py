# SPDX-License-Identifier: GPL-2.0-only
"""What is known of each update: its last event, its verified manifest, and what the kernel says.

Only the history and the bundles are on disk.  Where an update *is* follows from the last event and
the kernel, in that order of weakness (``state.settle``); it is worked out anew for each question.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Final

from ksplicd.errors import StoreError, WrongKernelError
from ksplicd.host.clock import Clock
from ksplicd.host.kernel.door import KernelDoor
from ksplicd.host.report.metrics import Meter
from ksplicd.host.stages import Actor, Event, UpdateInfo, is_moving, settle
from ksplicd.host.store.history import LASTING, History
from ksplicd.host.store.store import Store
from ksplicd.host.trust.verify import Trusted, check_kernel
from ksplicd.model import Kernel, Manifest, Stage, is_kid, new_module

_MAX_DETAIL: Final = 10_000
"""Characters; a thousand tasks may hold a transition up, and a description may be a book."""
_NEW_MODULE: Final = re.compile(r"ksplice_([a-z0-9]{8})_new")


class Book:
    """Our records of the updates in ``store``, and of those in the kernel without a bundle."""

    def __init__(
        self,
        store: Store,
        kernel: KernelDoor,
        clock: Clock,
        on_event: Callable[[Event], None],
        keep: Callable[[], int],
    ) -> None:
        """Nothing is read before ``open``; ``keep`` tells the bytes for full history files."""
        self._store = store
        self._kernel = kernel
        self._clock = clock
        self._on_event = on_event
        self._history = History(store.history_file, keep=keep)
        self._last: dict[str, Event] = {}
        self.meter = Meter()
        self._trusted: dict[str, Trusted] = {}
        self._distrusted: dict[str, tuple[str, str]] = {}
        """Cause and detail, for people."""

    def open(self) -> None:
        """Read as much of the history as tells where each update is.

        That is two files of it, and more where the last word on an update is older.
        """
        self._last, self.meter, self._history.damage = {}, Meter(), ""
        unknown = {*self._store.kids(), *self._in_kernel()}
        files: list[list[Event]] = []
        for events in self._history.read_back():
            files.append(events)
            unknown -= {event.kid for event in events if event.stage is not Stage.REJECTED}
            if not unknown and len(files) > 1:
                break
        for events in reversed(files):
            for event in events:
                self._note(event)

    @property
    def damage(self) -> str:
        """What of the history could not be read, and why; empty when all of it could."""
        return self._history.damage

    # --- questions ------------------------------------------------------------------------------

    def kids(self) -> list[str]:
        """Return the updates that are stored, in the kernel, or on their way; sorted."""
        moving = {kid for kid, event in self._last.items() if self._is_moving(event)}
        return sorted({*self._store.kids(), *self._in_kernel(), *moving})

    def has(self, kid: str) -> bool:
        """Tell whether ``kid``, whatever text a caller sends, is one of ``kids()``."""
        if not is_kid(kid):
            return False  # no path is made of it
        last = self._last.get(kid)
        is_moving = last is not None and self._is_moving(last)
        return is_moving or self._store.has(kid) or self.is_in_kernel(kid)

    def info(self, kid: str) -> UpdateInfo:
        """Return an update as it is now."""
        return self._info(kid, self.is_in_kernel(kid))

    def infos(self) -> list[UpdateInfo]:
        """Return every update as it is now, by kid."""
        in_kernel = self._in_kernel()
        return [self._info(kid, kid in in_kernel) for kid in self.kids()]

    def _info(self, kid: str, is_in_kernel: bool) -> UpdateInfo:  # noqa: FBT001
        stage, cause, detail = self._where(kid, is_in_kernel)
        return UpdateInfo(
            kid=kid, stage=stage, abort_cause=cause, detail=detail, manifest=self.manifest(kid)
        )

    def applied(self) -> list[str]:
        """Return the updates that are applied."""
        return [kid for kid in sorted(self._in_kernel()) if self.info(kid).stage is Stage.APPLIED]

    def is_in_kernel(self, kid: str) -> bool:
        """Tell whether the kernel knows the livepatch of an update."""
        return self._kernel.livepatch(new_module(kid)) is not None

    def in_order(self) -> list[str]:
        """Return every update that the history knows, in the order of their last events."""
        return list(self._last)

    def boots(self) -> set[str]:
        """Return the boots of the last events."""
        return {event.boot_id for event in self._last.values()}

    def last(self, kid: str) -> Event | None:
        """Return the last event of an update, from whatever boot."""
        return self._last.get(kid)

    def trusted(self, kid: str) -> Trusted | None:
        """Return the bundle's parts but its files, when it was verified."""
        return self._trusted.get(kid)

    def manifest(self, kid: str) -> Manifest:
        """Return the verified manifest, or one that says no more than the kid."""
        if kid in self._trusted:
            return self._trusted[kid].bundle.manifest
        return Manifest(
            kid=kid,
            kernel=Kernel(release="", build_id=""),
            core_file="",
            targets=(),
            description="(its bundle is not stored here, or does not verify)",
        )

    def history(self, limit: int = 0) -> list[Event]:
        """Return the last ``limit`` events (0: all), newest first."""
        return list(islice(self.back(), limit or None))

    def back(self) -> Iterator[Event]:
        """Yield the events, newest first; no more is read than is asked for, but for one file."""
        self.catch_up()
        for events in self._history.read_back():
            yield from reversed(events)

    def last_word(self, kid: str) -> Stage | None:
        """Return whether an update was applied, undone or quarantined last; None: none of these.

        The whole history is asked: its bundle may have been removed and come back since.  Raises
        ``StoreError`` when it cannot tell.
        """
        for events in self._history.read_back(whole=True):
            for event in reversed(events):
                if event.kid == kid and event.stage in LASTING:
                    return event.stage
        return None

    def catch_up(self) -> None:
        """Write down what could not be written before, if it can be now."""
        with contextlib.suppress(StoreError):  # it was told when it happened
            self._history.catch_up()

    # --- entries --------------------------------------------------------------------------------

    def know(self, kid: str, trusted: Trusted) -> None:
        """Remember what a verified bundle says, without its files and what only they need."""
        manifest = replace(trusted.bundle.manifest, files={})
        bundle = replace(trusted.bundle, manifest=manifest, files={}, changes=(), modules=())
        self._trusted[kid] = replace(trusted, bundle=bundle)
        self._distrusted.pop(kid, None)

    def distrust(self, kid: str, cause: str, why: str) -> None:
        """Remember that the stored bundle does not verify any more.

        Of what is in the kernel, and was verified before, we go on to tell what it is.
        """
        if not self.is_in_kernel(kid):
            self._trusted.pop(kid, None)
        self._distrusted[kid] = cause, why

    def forget(self, kid: str) -> None:
        """Drop what is known of a bundle that was deleted."""
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
        """Write an event down and report it.

        It is reported, and in force for as long as we run, even when it can not be written
        (``StoreError``).  A rejected file tells nothing about the update whose name it bears.
        """
        if len(detail) > _MAX_DETAIL:
            detail = f"{detail[:_MAX_DETAIL]}…"
        event = Event(
            time=self._clock.time(),
            boot_id=self._kernel.boot_id(),
            kid=kid,
            stage=stage,
            cause=cause,
            detail=detail,
            actor=actor,
            mismatch=mismatch or {},
        )
        self._note(event)
        try:
            self._history.append(event)
        finally:
            self._on_event(event)

    # --- detail ---------------------------------------------------------------------------------

    def _in_kernel(self) -> set[str]:
        """Return the updates that the kernel knows."""
        names = map(_NEW_MODULE.fullmatch, self._kernel.livepatches())
        return {name[1] for name in names if name}

    def _note(self, event: Event) -> None:
        """Remember an event as the last one of its update, and the last one of all."""
        self.meter.note(event)
        if event.stage is not Stage.REJECTED:
            self._last.pop(event.kid, None)
            self._last[event.kid] = event

    def _is_moving(self, last: Event) -> bool:
        return last.boot_id == self._kernel.boot_id() and is_moving(last.stage)

    def _where(self, kid: str, is_in_kernel: bool) -> tuple[Stage, str, str]:  # noqa: FBT001
        """Return (stage, cause, detail); what the kernel has nothing of, it is not asked about."""
        last = self._last.get(kid)
        if last is not None and self._is_moving(last):
            return last.stage, last.cause, last.detail
        livepatch = self._kernel.livepatch(new_module(kid)) if is_in_kernel else None
        if livepatch is not None and livepatch.transition:
            stage = Stage.TRANSITIONING if livepatch.enabled else Stage.REVERSING
            return stage, "", "moved by somebody else"
        is_enabled = livepatch is not None and livepatch.enabled
        distrusted = self._distrusted.get(kid)
        if distrusted is not None and not is_enabled:
            return Stage.REJECTED, "", distrusted[1]
        stage, cause, detail = settle(last, self._kernel.boot_id(), is_enabled=is_enabled)
        if distrusted is not None and not cause:
            return stage, distrusted[0], f"its bundle does not verify any more: {distrusted[1]}"
        if stage is Stage.STAGED and last is not None and last.stage is Stage.APPLIED:
            detail = "; ".join(text for text in (detail, self.why_other_kernel(kid)) if text)
        return stage, cause, detail

    def why_other_kernel(self, kid: str) -> str:
        """Tell which other kernel a verified update is for; empty when it is for this one."""
        try:
            if kid in self._trusted:
                check_kernel(self._trusted[kid].bundle.manifest, self._kernel)
        except WrongKernelError as e:
            return f"waits: {e}"
        return ""
