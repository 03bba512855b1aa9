# SPDX-License-Identifier: GPL-2.0-only
"""Records that could not be written are written as soon as they can be.

They hold meanwhile, in memory; a power cut would have lost them.  Nobody need do anything: a disk
that was full has room again some time.
"""

from collections.abc import Sequence

from ksplicd.bus import coroutines
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.pauses import pause_of_fault
from ksplicd.host.stages import UpdateInfo


class CatchUp:
    """Tries again, with growing pauses, while something is unwritten."""

    def __init__(self, worker: EngineWorker, first_seconds: float) -> None:
        """``first_seconds`` is the first pause."""
        self._worker = worker
        self._first_seconds = first_seconds
        self._is_at_it = False

    def show(self, _infos: Sequence[UpdateInfo]) -> None:
        """Look whether all is written; an update may have changed."""
        if not self._is_at_it:
            self._is_at_it = True
            coroutines.spawn(self._try())

    async def _try(self) -> None:
        attempt = 0
        try:
            while not await self._worker.run(self._worker.engine.records.catch_up):
                await coroutines.sleep(pause_of_fault(attempt, self._first_seconds))
                attempt += 1
        finally:
            self._is_at_it = False
