# SPDX-License-Identifier: GPL-2.0-only
"""The updates and jobs on the bus, kept equal to the store and the kernel.

Each list of updates is passed on through ``on_shown``, to those that watch soaking updates and
tripwires, or wait for an update to be applied.  What they do with it is not known here.
"""

import logging
from collections.abc import Callable
from typing import TypeAlias

from ksplicd.bus import names
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.job import Job
from ksplicd.bus.jobs import Ended, Jobs
from ksplicd.bus.objects import Objects
from ksplicd.bus.update import Update
from ksplicd.bus.wrapper import Guard
from ksplicd.errors import KspliceError
from ksplicd.host.stages import UpdateInfo
from ksplicd.model import Stage

_log = logging.getLogger(__name__)

OnShown: TypeAlias = Callable[[list[UpdateInfo]], None]


class Shown:
    """The objects of updates and jobs."""

    def __init__(
        self, worker: EngineWorker, objects: Objects, jobs: Jobs, check_inspect: Guard
    ) -> None:
        """``check_inspect`` asks polkit whether a caller may read."""
        self.on_shown: list[OnShown] = []
        self._worker = worker
        self._objects = objects
        self._jobs = jobs
        self._check_inspect = check_inspect
        self._updates: dict[str, Update] = {}
        objects.refresh_all = self.refresh_all
        jobs.show = self.show
        jobs.on_new.append(self._add_job)
        jobs.on_ended.append(self._remove_job)

    async def show_updates(self) -> None:
        """Make the objects on the bus agree with the store and the kernel, and pass the list on."""
        found = await self._refresh_updates()
        for listener in self.on_shown:
            listener(found)

    async def show(self) -> None:
        """Show the updates; an error goes to the journal, as no caller waits for it."""
        try:
            await self.show_updates()
        except KspliceError as e:
            _log.error("the updates cannot be shown: %s", e)
        except Exception:  # the job that has the turn must reach its end
            _log.exception("the updates cannot be shown")

    def show_stage(self, kid: str, stage: Stage, cause: str) -> bool:
        """Show a stage that an update has reached; False when it is not on the bus yet."""
        if kid in self._updates:
            self._updates[kid].show_stage(stage, cause)
        return kid in self._updates

    async def refresh_all(self) -> None:
        """Make the objects on the bus agree with the store and the kernel."""
        await self._refresh_updates()
        if (running := self._jobs.moving()) is not None:
            await running.job.refresh()

    async def _refresh_updates(self) -> list[UpdateInfo]:
        found = await self._worker.list_updates()
        infos = {info.kid: info for info in found}
        for kid in self._updates.keys() - infos.keys():
            del self._updates[kid]
            self._objects.remove(names.update_path(kid))
        for kid, info in infos.items():
            if kid in self._updates:
                self._updates[kid].show(info)
            else:
                self._updates[kid] = Update(self._worker, self._jobs, self._check_inspect, info)
                self._objects.add(names.update_path(kid), self._updates[kid])
        return found

    def _add_job(self, job: Job) -> None:
        self._objects.add(job.path, job)

    def _remove_job(self, job: Job, _ended: Ended) -> None:
        self._objects.remove(job.path)
