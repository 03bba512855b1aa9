# SPDX-License-Identifier: GPL-2.0-only
"""A runner over a simulated kernel, without a bus, and what stands for its neighbours."""

from dataclasses import dataclass, field
from typing import cast

from ksplicd.bus.coroutines import Worker, sleep
from ksplicd.bus.objects import Objects
from ksplicd.bus.polkit import Polkit
from ksplicd.bus.runner import Runner
from ksplicd.host.engine import Engine
from ksplicd.host.report.journal import Entry
from ksplicd.host.stages import DAEMON, Actor, Reconciliation, UpdateInfo
from ksplicd.model import Stage
from tests.support.host.host import Host


class NoJournal:
    def write(self, entry: Entry) -> None:
        pass


class Shown:
    """Stands for ``Objects``: what is on the bus."""

    def __init__(self) -> None:
        self.paths: set[str] = set()
        self.refresh_all: object = None

    def add(self, path: str, _subject: object) -> None:
        self.paths.add(path)

    def remove(self, path: str) -> None:
        self.paths.remove(path)


@dataclass(eq=False, repr=False)
class CountingEngine(Engine):
    lists: int = field(default=0, init=False)
    reconciled: int = field(default=0, init=False)

    def list_updates(self) -> list[UpdateInfo]:
        self.lists += 1
        return super().list_updates()

    def reconcile(self, actor: Actor = DAEMON) -> Reconciliation:
        self.reconciled += 1
        return super().reconcile(actor)


def make_runner(
    host: Host, shown: Shown, worker: Worker, kind: type[CountingEngine] = CountingEngine
) -> tuple[Runner, CountingEngine]:
    parts = vars(host.new_engine())
    names = ("store", "kernel", "keyring", "settings", "clock", "owner")
    engine = kind(**{name: parts[name] for name in names})
    modules = host.root / "modules"
    polkit = cast(Polkit, None)
    return Runner(engine, worker, cast(Objects, shown), polkit, NoJournal(), modules), engine


async def wait_for_stage(runner: Runner, kid: str, stage: Stage) -> None:
    for _ in range(2000):
        if (await runner.get_update(kid)).stage is stage:
            return
        await sleep(0.01)
    raise AssertionError(f"{kid} is not {stage}")
