# SPDX-License-Identifier: GPL-2.0-only
"""The drop directory, watched: what comes is staged, and applied where that is the policy."""

import logging
import os
from typing import Any

from gi.repository import Gio, GLib

from ksplicd.bus import tasks
from ksplicd.bus.automatic import Automatic
from ksplicd.bus.runner import Runner
from ksplicd.config import OnDrop
from ksplicd.errors import BundleError, HostError, KspliceError, StoreError
from ksplicd.host.dropdir import DropDir, is_bundle_name
from ksplicd.host.state import Actor, UpdateInfo, Via
from ksplicd.host.store import SIGNATURE_SUFFIX

_log = logging.getLogger(__name__)


class Drops:
    """What is dropped while the daemon runs, and what was while it did not."""

    retry_seconds = 60.0
    """After which a bundle is looked at again that could not be taken in."""

    def __init__(self, runner: Runner, automatic: Automatic) -> None:
        self._automatic = automatic
        self._runner = runner
        self._engine = runner.engine
        self._folder = DropDir(
            self._engine.store.root, require_signature=self._engine.settings.require_signature
        )
        self._monitor: Gio.FileMonitor | None = None
        self._later: set[str] = set()
        """Files that will be looked at again."""

    def watch(self) -> None:
        """Hear of files that were closed after writing, or renamed into place."""
        folder = Gio.File.new_for_path(str(self._folder.root))
        self._monitor = folder.monitor_directory(Gio.FileMonitorFlags.WATCH_MOVES, None)
        self._monitor.connect("changed", self._on_file)

    async def scan(self) -> None:
        """Take in what is there, by the settings that hold now."""
        self._folder.require_signature = self._engine.settings.require_signature
        try:
            drops = await self._runner.worker.run(self._folder.scan)
            waiting = await self._runner.worker.run(self._folder.waiting)
        except KspliceError as e:
            _log.error("%s", e)
            return
        for name in waiting:
            _tell_waiting(name)
        for drop in drops:
            await self._take(drop.bundle.name)

    def _on_file(
        self, _monitor: Any, file: Gio.File, other: Gio.File | None, kind: Gio.FileMonitorEvent
    ) -> None:
        kinds = Gio.FileMonitorEvent
        if kind in {kinds.CHANGES_DONE_HINT, kinds.MOVED_IN, kinds.RENAMED}:
            came = other if kind == kinds.RENAMED and other is not None else file
            tasks.spawn(self._take(came.get_basename()))

    async def _take(self, name: str) -> None:
        """Stage the bundle that file ``name`` completes, and apply it where that is the policy."""
        try:
            info = await self._runner.worker.run(self._stage, name)
        except KspliceError as e:
            if isinstance(e, BundleError | HostError) and not isinstance(e, StoreError):
                _log.info("%s: %s", name, e)  # the engine's event says it louder
            else:
                self._take_later(name, e)
        else:
            if info is None:
                return
            if self._engine.settings.on_drop is OnDrop.APPLY:
                self._automatic.apply(info.kid, Actor(uid=os.geteuid(), via=Via.DROP))
        await self._runner.show()  # while the kernel works; what was rejected is in the metrics

    def _take_later(self, name: str, why: KspliceError) -> None:
        """Look at a file again whose fault it was not."""
        _log.error("%s: stays where it is, and is tried again: %s", name, why)
        if name not in self._later:
            self._later.add(name)
            GLib.timeout_add(round(self.retry_seconds * 1000), self._on_timer, name)

    def _on_timer(self, name: str) -> bool:
        self._later.discard(name)
        tasks.spawn(self._take(name))
        return False  # once

    def _stage(self, name: str) -> UpdateInfo | None:
        """Take in what ``name`` completes, if anything; this is the worker's thread."""
        drop = self._folder.consider(name)
        if drop is None:
            if is_bundle_name(name) and name in self._folder.waiting():
                _tell_waiting(name)
            return None
        actor = Actor(uid=os.geteuid(), via=Via.DROP)
        try:
            return self._engine.stage_file(drop.bundle, drop.signature, actor)
        except FileNotFoundError as e:
            _log.info("%s: is gone again", e.filename)
            return None


def _tell_waiting(name: str) -> None:
    _log.info("%s: waits for its signature, %s%s", name, name, SIGNATURE_SUFFIX)
