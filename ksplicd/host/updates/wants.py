# SPDX-License-Identifier: GPL-2.0-only
"""What is wanted: it outlives faults, boots and kernels.

A want begins when an update is applied, or policy says that it is to be.  It ends by a person's
word (undo, remove, a cancelled apply) or by a verdict on this bundle and this kernel (``VERDICTS``,
a quarantine, a complaint of the kernel).  Nothing else ends it: what failed for want of memory, or
because the disk is full, is wanted as before.

A caller who waits for the answer hears of a failure; so his apply is wanted only once it has been
applied, and nothing happens behind his back that he was told had failed.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from ksplicd.errors import (
    BadSystemMapError,
    CallFailedError,
    CancelledError,
    FailedToFindError,
    KernelWarningError,
    MissingExportError,
    ModuleRefusedError,
    NoMatchError,
    StoreError,
)
from ksplicd.host.stages import Event, Via
from ksplicd.host.store.wanted import Want, WantedFile, is_lost
from ksplicd.model import Kernel, Stage

_log = logging.getLogger(__name__)

VERDICTS: Final = frozenset(
    cls.abort_cause
    for cls in (
        NoMatchError,
        FailedToFindError,
        BadSystemMapError,
        MissingExportError,
        ModuleRefusedError,
        CallFailedError,
        KernelWarningError,
    )
)
"""Abort causes that another try on the same kernel would end in again."""

_ENDED: Final = frozenset({Stage.REVERSED, Stage.QUARANTINED, Stage.REMOVED})


class Wants:
    """The wants of a host, in memory and in their file."""

    def __init__(self, file: WantedFile) -> None:
        """Nothing is read before ``open``."""
        self._file = file
        self._wants: dict[str, Want] = {}
        self._before: dict[str, Want] = {}
        """What an undo that still runs would end."""
        self._is_written = True

    def open(self, lasts: Mapping[str, Event], was_applied: Callable[[str], bool]) -> None:
        """Read the file, and bring it into line with the last event of each stored update.

        The events win where a kill came between them and the file.  Without a readable file they
        are all there is, and ``was_applied`` says what an update was before its apply failed.
        Raises ``StoreError`` when the file cannot be read now.
        """
        try:
            # what could not be written yet is newer than the file
            known = self._file.read() if self._is_written else self._wants.values()
            found, is_new = {want.kid: want for want in known}, False
        except StoreError as e:
            if not is_lost(e):
                raise
            if not isinstance(e.__cause__, FileNotFoundError):
                _log.error("%s; what is wanted follows from the history", e)
            found, is_new = {}, True
        before = dict(found)
        for kid, last in lasts.items():
            if is_new and _is_put_off(last) and was_applied(kid):
                found[kid] = _begin(last, Kernel(release="", build_id=""), is_applied=True)
            old = found.pop(kid, None)
            # who wants it again after an undo leaves no event before it is applied
            is_older = old is not None and last.stage in _ENDED and last.time < old.since
            want = old if is_older else after(old, last)
            if want is not None:
                found[kid] = want
        # the file has the order in which they were wanted, which the events need not have
        order = dict.fromkeys([*before, *lasts])
        self._wants = {kid: found[kid] for kid in order if kid in found}
        self._before = {}
        self._is_written = self._is_written and found == before
        self.catch_up()

    def __iter__(self) -> Iterator[Want]:
        """Yield the wants in their order."""
        return iter(list(self._wants.values()))

    def __contains__(self, kid: str) -> bool:
        """Return whether an update is wanted."""
        return kid in self._wants

    def note(self, event: Event, kernel: Kernel) -> None:
        """Begin or end a want as an event says; ``kernel`` is the one that the update is for."""
        kid, old = event.kid, self._wants.get(event.kid)
        if event.stage is Stage.REVERSING and old is not None and not event.cause:
            self._before[kid] = old
        new = after(old, event)
        if event.stage is Stage.APPLIED and old is None and kid in self._before:
            new = self._before[kid]  # it could not be undone
        if event.stage in {Stage.APPLIED, *_ENDED}:
            self._before.pop(kid, None)
        if new is not None and not new.kernel.build_id:
            new = replace(new, kernel=kernel)
        self._set(kid, new)

    def begin(self, event: Event, kernel: Kernel) -> None:
        """Want an update from now on, because of policy: ``event`` says who and when."""
        if event.kid not in self._wants:
            self._set(event.kid, _begin(event, kernel, is_applied=False))

    def end(self, kid: str) -> None:
        """Want an update no longer, without an event that says so: another one is in its place."""
        self._set(kid, None)

    def catch_up(self) -> bool:
        """Write what could not be written before; a failure goes to the log, for a later try.

        Returns whether all is written.
        """
        if not self._is_written:
            try:
                self._file.write(self._wants.values())
                self._is_written = True
            except StoreError as e:
                _log.error("what is wanted cannot be written down yet: %s", e)
        return self._is_written

    def _set(self, kid: str, want: Want | None) -> None:
        if self._wants.get(kid) == want:
            return
        if want is None:
            del self._wants[kid]
        else:
            self._wants[kid] = want
        self._is_written = False
        self.catch_up()


def after(want: Want | None, event: Event) -> Want | None:
    """Return what is wanted after an event, when ``want`` was before it."""
    match event.stage:
        case Stage.APPLIED:
            is_new = want is None
            want = want or _begin(event, Kernel(release="", build_id=""), is_applied=True)
            return want if is_new or want.is_applied else replace(want, is_applied=True)
        case Stage.LOADING if want is None:
            return _begin(event, Kernel(release="", build_id=""), is_applied=False)
        case Stage.REVERSING if not event.cause:
            return None
        case Stage.FAILED if want is not None:
            is_over = event.cause in VERDICTS or event.cause == CancelledError.abort_cause
            is_told = event.actor.via is Via.DBUS and not want.is_applied
            return None if is_over or is_told else want
        case stage if stage in _ENDED:
            return None
        case _:
            return want


def _begin(event: Event, kernel: Kernel, *, is_applied: bool) -> Want:
    return Want(
        kid=event.kid, since=event.time, actor=event.actor, kernel=kernel, is_applied=is_applied
    )


def _is_put_off(last: Event) -> bool:
    """Return whether an apply that nobody waited for failed, and may succeed later."""
    is_unattended = last.actor.via is not Via.DBUS
    return last.stage is Stage.FAILED and is_unattended and last.cause not in VERDICTS
