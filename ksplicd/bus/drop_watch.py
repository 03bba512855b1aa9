# SPDX-License-Identifier: GPL-2.0-only
"""The drop directory, watched: a bundle that comes is staged, and applied where policy says so.

Bundles are taken one after the other, in the order in which they came, each once for all events of
it and its signature.  When more happens at once than the kernel's queue of events holds, it drops
the rest (``IN_Q_OVERFLOW``, inotify(7)), and GIO does not report that; but events in the queue are
read later than those that were lost.  So a while after any event the whole directory is looked at
once more.  ``host.store.drop_dir`` knows which files are a complete drop.
"""

import logging
import os
from typing import Any, Final

from gi.repository import Gio, GLib

from ksplicd.bus import coroutines
from ksplicd.bus.automatic import Automatic
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.shown import Shown
from ksplicd.config import OnDrop
from ksplicd.errors import BundleError, HostError, KspliceError, StoreError
from ksplicd.host.stages import Actor, UpdateInfo, Via
from ksplicd.host.store.drop_dir import Drop, DropDir, bundle_of
from ksplicd.host.store.store import SIGNATURE_SUFFIX

_log = logging.getLogger(__name__)


RETRY_SECONDS: Final = 60.0
"""Until the next try with a bundle that could not be staged."""
CALM_SECONDS: Final = 2.0
"""Until the whole directory is scanned again after an event."""


class DropWatch:
    """Stages what is dropped, and what was dropped while the daemon did not run."""

    def __init__(
        self,
        worker: EngineWorker,
        shown: Shown,
        automatic: Automatic,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._automatic = automatic
        self._worker = worker
        self._engine = worker.engine
        self._shown = shown
        self._retry_seconds = retry_seconds
        self._folder = DropDir(
            self._engine.doors.store.root,
            require_signature=self._engine.doors.settings.require_signature,
        )
        self._monitor: Gio.FileMonitor | None = None
        self._came: dict[str, None] = {}
        """Bundles to be staged, in the order in which they came."""
        self._is_taking = False
        self._is_scan_due = False
        self._later: set[str] = set()
        """Bundles that could not be staged, and have a timer."""
        self._waiting: list[str] = []
        """Bundles without their signature; each is logged once."""

    def watch(self) -> None:
        """Watch for files that are closed after writing, or renamed into place."""
        folder = Gio.File.new_for_path(str(self._folder.root))
        self._monitor = folder.monitor_directory(Gio.FileMonitorFlags.WATCH_MOVES, None)
        self._monitor.connect("changed", self._on_file)

    async def scan(self) -> None:
        """Stage every complete drop, by the settings that hold now."""
        self._folder.require_signature = self._engine.doors.settings.require_signature
        self._later.clear()
        await self._scan()

    async def _scan(self) -> None:
        try:
            ready, waiting = await self._worker.run(self._look)
        except KspliceError as e:
            _log.error("%s", e)
            return
        for name in waiting:
            if name not in self._waiting:
                _log.info("%s: waits for its signature, %s%s", name, name, SIGNATURE_SUFFIX)
        self._waiting = waiting
        for drop in ready:
            if drop.bundle.name not in self._later:
                self._came[drop.bundle.name] = None
        await self._take_all()

    def _look(self) -> tuple[list[Drop], list[str]]:
        return self._folder.scan(), self._folder.waiting()

    def _on_file(
        self, _monitor: Any, file: Gio.File, other: Gio.File | None, kind: Gio.FileMonitorEvent
    ) -> None:
        kinds = Gio.FileMonitorEvent
        if kind in {kinds.CHANGES_DONE_HINT, kinds.MOVED_IN, kinds.RENAMED}:
            came = other if kind == kinds.RENAMED and other is not None else file
            self._notice(came.get_basename())
        if not self._is_scan_due:
            self._is_scan_due = True
            GLib.timeout_add(round(CALM_SECONDS * 1000), self._on_calm)

    def _on_calm(self) -> bool:
        self._is_scan_due = False
        coroutines.spawn(self._scan())
        return False  # once

    def _notice(self, name: str) -> None:
        """Stage the bundle that file ``name`` belongs to, once it is complete."""
        if bundle := bundle_of(name):
            self._came[bundle] = None
            coroutines.spawn(self._take_all())

    async def _take_all(self) -> None:
        """Stage what came, and what comes meanwhile."""
        if self._is_taking or not self._came:
            return
        self._is_taking = True
        while self._came:
            name = next(iter(self._came))
            del self._came[name]
            try:
                await self._take(name)
            except Exception:  # the others are not at fault
                _log.exception("%s: stays where it is", name)
        self._is_taking = False
        await self._shown.show()  # while the kernel works; the metrics count what was rejected

    async def _take(self, name: str) -> None:
        """Stage a bundle, if it is complete, and apply it where that is the policy."""
        try:
            info = await self._worker.run(self._stage, name)
        except KspliceError as e:
            if isinstance(e, BundleError | HostError) and not isinstance(e, StoreError):
                _log.info("%s: %s", name, e)  # the engine's event is in the journal too
            else:
                self._take_later(name, e)
        else:
            if info is not None and self._engine.doors.settings.on_drop is OnDrop.APPLY:
                self._automatic.apply(info.kid, Actor(uid=os.geteuid(), via=Via.DROP))

    def _take_later(self, name: str, why: KspliceError) -> None:
        """Try again later: the bundle is not at fault."""
        _log.error("%s: stays where it is, and is tried again: %s", name, why)
        if name not in self._later:
            self._later.add(name)
            GLib.timeout_add(round(self._retry_seconds * 1000), self._on_timer, name)

    def _on_timer(self, name: str) -> bool:
        self._later.discard(name)
        self._notice(name)
        return False  # once

    def _stage(self, name: str) -> UpdateInfo | None:
        """Stage bundle ``name``, if it is complete; this is the worker's thread."""
        drop = self._folder.consider(name)
        if drop is None:
            return None
        actor = Actor(uid=os.geteuid(), via=Via.DROP)
        try:
            return self._engine.stage_file(drop.bundle, drop.signature, actor)
        except FileNotFoundError as e:
            _log.info("%s: is gone again", e.filename)
            return None
