# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's module events: modules of updates that others load or unload.

``jobs`` knows which modules the daemon itself is loading and unloading.  Events that were lost, or
could not be read, are made up for by reconciling with the kernel.
"""

import errno
import logging
from collections.abc import Mapping
from typing import Any, Final

from gi.repository import GLib

from ksplicd.bus import coroutines
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.loop import call_later
from ksplicd.bus.reconciler import Reconciler
from ksplicd.errors import KspliceError
from ksplicd.host.report.journal import Journal, about_target

_log = logging.getLogger(__name__)

_PREFIX = "ksplice_"
_RETRY_SECONDS: Final = 1.0


class ModuleWatch:
    """Uevents of modules."""

    def __init__(self, worker: EngineWorker, reconciler: Reconciler, journal: Journal) -> None:
        """Nothing is watched before ``watch``."""
        self._worker = worker
        self._reconciler = reconciler
        self._journal = journal
        self._monitor: Any = None

    def watch(self) -> None:
        """Watch module events from now on."""
        try:
            import pyudev

            monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
            monitor.filter_by("module")
            monitor.start()
        except (ImportError, OSError) as e:
            _log.warning("module events are not noticed: %s", e)
            return
        self._monitor = monitor
        fd = monitor.fileno()
        conditions = GLib.IOCondition.IN | GLib.IOCondition.ERR | GLib.IOCondition.HUP
        GLib.io_add_watch(fd, GLib.PRIORITY_DEFAULT, conditions, self._on_uevent)

    def _watch_again(self) -> None:
        self.watch()
        self._reconciler.notice_loss()

    def _on_uevent(self, _fd: int, _condition: int) -> bool:
        try:
            self._read()
        except OSError as e:
            if e.errno == errno.ENOBUFS:
                _log.warning("module events were lost: more came than the kernel keeps")
                self._reconciler.notice_loss()
                return True
            _log.error("module events cannot be read: %s", e)
        except Exception:
            _log.exception("a module event could not be dealt with")
        else:
            return True  # more will come
        call_later(_RETRY_SECONDS, self._watch_again)
        return False  # a new monitor comes

    def _read(self) -> None:
        while (device := self._monitor.poll(timeout=0)) is not None:
            if not device.sys_name.startswith(_PREFIX):
                continue
            if device.action == "change":
                coroutines.spawn(self._report_target(device.sys_name, device.properties))
            else:
                self._reconciler.notice_module(device.sys_name)

    async def _report_target(self, core: str, properties: Mapping[str, str]) -> None:
        """Write to the journal what a core reports of a target that was loaded or unloaded."""
        kid = core.removeprefix(_PREFIX)
        target = properties.get("KSPLICE_TARGET", "")
        state = properties.get("KSPLICE_STATE", "")
        try:
            now = await self._worker.run(self._worker.engine.doors.kernel.core, kid)
        except KspliceError as e:
            _log.error("%s", e)
            return
        self._journal.write(about_target(kid, target, state, now))
