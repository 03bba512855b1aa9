# SPDX-License-Identifier: GPL-2.0-only
"""The engine's events: written to the journal at once, shown on the bus by the loop.

An event comes on the worker's thread.  It is only reported here; policy does not follow from it.
"""

from typing import Final

from ksplicd.bus import coroutines
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.loop import call_soon
from ksplicd.bus.shown import Shown
from ksplicd.host.report.journal import Journal, about_event
from ksplicd.host.stages import Event
from ksplicd.model import Stage

_GATHER_SECONDS: Final = 0.1
"""New updates are gathered this long before all are listed."""


class Events:
    """Reports the engine's events."""

    def __init__(self, worker: EngineWorker, shown: Shown, journal: Journal) -> None:
        self._worker = worker
        self._shown = shown
        self._journal = journal
        self._is_show_due = False
        """Whether the worker will list the updates for new ones to be shown."""
        worker.engine.doors.on_event = self._on_event

    def _on_event(self, event: Event) -> None:
        """Take an event from the engine; this is the worker's thread."""
        if entry := about_event(event):
            self._journal.write(entry)
        call_soon(self._show, event)

    def _show(self, event: Event) -> None:
        if event.stage is Stage.REJECTED:
            return  # a file was rejected, not the update that it is named after
        is_shown = self._shown.show_stage(event.kid, event.stage, event.cause)
        # At the first start there may be a thousand new ones.
        if not is_shown and event.kid and not self._is_show_due:
            self._is_show_due = True
            coroutines.spawn(self._show_new())

    async def _show_new(self) -> None:
        """Show the new updates of all events until the worker gets to this."""
        await coroutines.sleep(_GATHER_SECONDS)
        await self._worker.run(self._begin_to_show)
        await self._shown.show()

    def _begin_to_show(self) -> None:
        """Let later events be shown anew; they come from this thread, so none can be missed."""
        self._is_show_due = False
