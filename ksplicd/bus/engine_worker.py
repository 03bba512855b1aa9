# SPDX-License-Identifier: GPL-2.0-only
"""The engine, and the one thread that it is used from.

Every method of the engine may block, and one thread at a time may use it: callers await ``run``.
Nothing here knows what the engine does.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from ksplicd.bus.coroutines import Worker
from ksplicd.bus.stuck_watch import IDLE_SECONDS, StuckWatch
from ksplicd.host.engine import Engine
from ksplicd.host.stages import UpdateInfo

_T = TypeVar("_T")


class EngineWorker:
    """Runs the engine's methods one after the other, beside the loop."""

    def __init__(self, engine: Engine, idle_seconds: float = IDLE_SECONDS) -> None:
        """A call that does nothing for ``idle_seconds`` is stuck."""
        self.engine = engine
        self._worker = Worker()
        self._watch = StuckWatch(self._worker, idle_seconds)

    async def run(self, function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        """Call ``function`` on the thread and return what it returns, or raise what it raises."""
        return await self._worker.run(function, *args, **kwargs)

    async def get_update(self, kid: str) -> UpdateInfo:
        """Return an update as the kernel shows it now.  Raises ``NoSuchUpdateError``."""
        return await self.run(self.engine.get_update, kid)

    async def list_updates(self) -> list[UpdateInfo]:
        """Return every update as the kernel shows it now."""
        return await self.run(self.engine.list_updates)

    def why_stuck(self, seconds: float) -> str:
        """Return why the thread is stuck, or empty text; asked last ``seconds`` ago."""
        return self._watch.look(seconds)

    def stop(self) -> None:
        """Finish the call that runs now, drop those that wait, and end the thread."""
        self._worker.stop()
