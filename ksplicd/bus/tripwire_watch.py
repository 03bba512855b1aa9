# SPDX-License-Identifier: GPL-2.0-only
"""Report the hits of tripwires to the journal and the bus, for the updates that are in force.

There is a listener for each update that has tripwires, from its transition to the end of its undo;
without such an update there is none, and nothing is imported for it.  The kernel keeps the first
hits until they are read, so none is lost at the start or before the next try.
``host.kernel.tripwire`` knows what a message means.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from gi.repository import GLib

from ksplicd.bus import coroutines
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.errors import KspliceError
from ksplicd.host.kernel.tripwire import Hit, Listener, is_overrun, read_hit
from ksplicd.host.report.journal import Journal, about_hit, about_overrun
from ksplicd.host.stages import UpdateInfo
from ksplicd.model import Stage

_log = logging.getLogger(__name__)

_IN_FORCE: Final = {Stage.TRANSITIONING, Stage.APPLIED, Stage.REVERSING}
_AT_ONCE: Final = 64
"""Messages that are read in one go."""
_FIRST_PAUSE: Final = 1
_LONGEST_PAUSE: Final = 300
"""Seconds until the next try to listen; each time twice as long."""


@dataclass(slots=True, kw_only=True)
class _InForce:
    """An update in force."""

    cves: tuple[str, ...]
    listener: Listener | None = None
    """None: it has no tripwires, or they are not read yet."""
    source: int = 0
    """GLib's, of the listener or of the next try; 0: none."""
    pause: int = _FIRST_PAUSE
    has_warned: bool = False


class TripwireWatch:
    """The listeners."""

    def __init__(
        self, worker: EngineWorker, journal: Journal, signal: Callable[..., object]
    ) -> None:
        """``signal`` is called with kid, CVE, place and details."""
        self._worker = worker
        self._engine = worker.engine
        self._journal = journal
        self._signal = signal
        self._in_force: dict[str, _InForce] = {}

    def show(self, infos: Iterable[UpdateInfo]) -> None:
        """Listen to the updates that are in force now, and to no others."""
        wanted = {info.kid: info.manifest.cves for info in infos if info.stage in _IN_FORCE}
        for kid in self._in_force.keys() - wanted.keys():
            self._stop(kid)
        for kid in wanted.keys() - self._in_force.keys():
            self._in_force[kid] = _InForce(cves=wanted[kid])
            coroutines.spawn(self._start(kid, self._in_force[kid]))

    def stop(self) -> None:
        """Stop listening."""
        for kid in list(self._in_force):
            self._stop(kid)

    def _stop(self, kid: str) -> None:
        update = self._in_force.pop(kid)
        if update.source:
            GLib.source_remove(update.source)
        if update.listener is not None:
            update.listener.close()

    async def _start(self, kid: str, update: _InForce) -> None:
        try:
            listener = await self._worker.run(self._open, kid)
        except KspliceError as e:
            self._try_again(kid, update, e)
            return
        if listener is None:
            return
        if self._in_force.get(kid) is not update:  # it was undone meanwhile
            listener.close()
            return
        conditions = GLib.IOCondition
        update.listener = listener
        update.source = GLib.io_add_watch(
            listener.fileno(), GLib.PRIORITY_DEFAULT, conditions.IN | conditions.ERR,
            self._on_message, kid, update,
        )  # fmt: skip

    def _try_again(self, kid: str, update: _InForce, why: object) -> None:
        if self._in_force.get(kid) is not update:
            return
        _log.error("update %s: %s; ksplicd tries again in %d s", kid, why, update.pause)
        update.source = GLib.timeout_add_seconds(update.pause, self._on_pause, kid, update)
        update.pause = min(2 * update.pause, _LONGEST_PAUSE)

    def _on_pause(self, kid: str, update: _InForce) -> bool:
        update.source = 0
        coroutines.spawn(self._start(kid, update))
        return False  # once

    def _open(self, kid: str) -> Listener | None:
        """Listen to an update's core, if that has tripwires; this is the worker's thread."""
        kernel = self._engine.doors.kernel
        core = kernel.core(kid)
        return kernel.listen(core.tripwire_family) if core and core.tripwire_family else None

    def _on_message(self, _fd: int, _condition: Any, kid: str, update: _InForce) -> bool:
        assert update.listener is not None
        for _ in range(_AT_ONCE):
            try:
                data = update.listener.receive()
            except OSError as e:
                if not is_overrun(e):
                    update.listener.close()
                    update.listener = None
                    self._try_again(kid, update, f"tripwires are no longer read: {e}")
                    return False
                self._journal.write(about_overrun(kid))
                continue
            if data is None:
                break
            hit = read_hit(data, update.listener.family_id)
            update.pause = _FIRST_PAUSE
            if hit is not None:
                self._on_hit(kid, hit, update.cves)
            elif not update.has_warned:
                _log.warning("update %s: messages that no tripwire sends are ignored", kid)
                update.has_warned = True
        return True  # more will come

    def _on_hit(self, kid: str, hit: Hit, cves: tuple[str, ...]) -> None:
        cve = hit.cve or " ".join(cves)
        now = self._engine.doors.clock.time()
        self._journal.write(about_hit(kid, cve, hit, now))
        self._signal(kid, cve, hit.place, describe(hit))


def describe(hit: Hit) -> dict[str, GLib.Variant]:
    """Return the signal's details; ``Time`` in µs since 1970, UTC."""
    if hit.who is None:
        return {"Suppressed": GLib.Variant("u", hit.suppressed)}
    return {
        "Pid": GLib.Variant("u", hit.who.pid),
        "Tgid": GLib.Variant("u", hit.who.tgid),
        "Uid": GLib.Variant("u", hit.who.uid),
        "Command": GLib.Variant("s", hit.who.command),
        "Context": GLib.Variant("s", hit.who.context),
        "Time": GLib.Variant("t", hit.who.time // 1000),
    }
