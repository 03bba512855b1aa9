# SPDX-License-Identifier: GPL-2.0-only
"""Jobs and the parts that they need, over a simulated kernel and without a bus."""

from dataclasses import dataclass
from typing import cast

from ksplicd.bus.automatic import Automatic
from ksplicd.bus.coroutines import sleep
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.events import Events
from ksplicd.bus.jobs import Jobs
from ksplicd.bus.objects import Objects
from ksplicd.bus.polkit import Polkit
from ksplicd.bus.reconciler import Reconciler
from ksplicd.bus.shown import Shown
from ksplicd.bus.wrapper import Call
from ksplicd.host.engine import Engine
from ksplicd.host.report.journal import Entry
from ksplicd.host.stages import DAEMON, Actor, Reconciliation, UpdateInfo
from ksplicd.host.updates.doors import Doors
from ksplicd.model import Stage
from tests.support.host.host import Host


class NoJournal:
    def write(self, entry: Entry) -> None:
        pass


class Paths:
    """Stands for ``Objects``: which paths are on the bus."""

    def __init__(self) -> None:
        self.paths: set[str] = set()
        self.refresh_all: object = None

    def add(self, path: str, _subject: object) -> None:
        self.paths.add(path)

    def remove(self, path: str) -> None:
        self.paths.remove(path)


class CountingEngine(Engine):
    def __init__(self, doors: Doors) -> None:
        super().__init__(doors)
        self.lists = 0
        self.reconciled = 0

    def list_updates(self) -> list[UpdateInfo]:
        self.lists += 1
        return super().list_updates()

    def reconcile(self, actor: Actor = DAEMON) -> Reconciliation:
        self.reconciled += 1
        return super().reconcile(actor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """As ``bus.service`` wires them; call ``worker.stop()`` at the end."""

    engine: CountingEngine
    worker: EngineWorker
    paths: Paths
    jobs: Jobs
    shown: Shown
    reconciler: Reconciler

    async def wait_for_stage(self, kid: str, stage: Stage) -> None:
        for _ in range(2000):
            if (await self.worker.get_update(kid)).stage is stage:
                return
            await sleep(0.01)
        raise AssertionError(f"{kid} is not {stage}")


async def _let_everyone(_call: Call) -> None:
    pass


def make_parts(host: Host, kind: type[CountingEngine] = CountingEngine) -> Parts:
    engine = kind(host.new_engine().doors)
    worker, paths, journal = EngineWorker(engine), Paths(), NoJournal()
    polkit = cast(Polkit, None)
    jobs = Jobs(worker, polkit, journal, host.root / "modules")
    shown = Shown(worker, cast(Objects, paths), jobs, _let_everyone)
    Events(worker, shown, journal)
    reconciler = Reconciler(worker, jobs, shown)
    Automatic(worker, jobs, lambda: "", journal)
    return Parts(
        engine=engine, worker=worker, paths=paths, jobs=jobs, shown=shown, reconciler=reconciler
    )
