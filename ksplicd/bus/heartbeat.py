# SPDX-License-Identifier: GPL-2.0-only
"""The heartbeat: the kernel is asked about all updates now and then, though nothing has happened.

Whoever watches the host sees by it that the service works: ``LastCheck`` on the bus, and the
metrics.  Nothing is applied here.
"""

import logging
from typing import Final

from ksplicd.bus import coroutines
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.shown import Shown
from ksplicd.errors import KspliceError

_log = logging.getLogger(__name__)

BEAT_SECONDS: Final = 300.0


class Heartbeat:
    """Checks for ever."""

    def __init__(self, worker: EngineWorker, shown: Shown, seconds: float) -> None:
        """``seconds`` is the time between two checks."""
        self._worker = worker
        self._shown = shown
        self._seconds = seconds

    def start(self) -> None:
        """Check from now on; the first time after a pause, as the start of the daemon checks."""
        coroutines.spawn(self._beat())

    async def _beat(self) -> None:
        while True:
            await coroutines.sleep(self._seconds)
            try:
                await self._worker.run(self._worker.engine.check)
                await self._shown.show()
            except KspliceError as e:
                _log.error("the updates cannot be checked: %s", e)
