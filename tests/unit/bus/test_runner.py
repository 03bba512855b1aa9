# SPDX-License-Identifier: GPL-2.0-only
"""The runner over a simulated kernel, without a bus."""

from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from gi.repository import GLib

from ksplicd.bus.objects import Objects
from ksplicd.bus.polkit import Polkit
from ksplicd.bus.runner import Runner
from ksplicd.bus.tasks import Worker, spawn
from ksplicd.host.engine import Engine
from ksplicd.host.journal import Entry
from ksplicd.host.state import UpdateInfo
from tests.bundles import samples
from tests.unit.host.host import Host


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

    def list_updates(self) -> list[UpdateInfo]:
        self.lists += 1
        return super().list_updates()


def run(coroutine: Coroutine[Any, None, None]) -> None:
    """Run the loop until the coroutine has ended and nothing else is to be done."""
    loop = GLib.MainLoop()

    async def main() -> None:
        try:
            await coroutine
        finally:
            loop.quit()

    spawn(main())
    loop.run()


def test_many_new_updates_are_listed_a_few_times(tmp_path: Path) -> None:
    """Each of their events is news; a thousand lists of a thousand took 17 s at a first start."""
    host = Host(tmp_path)
    for number in range(50):
        data = samples.bundle(f"kid{number:05}")
        folder = host.root / "updates" / f"kid{number:05}"
        folder.mkdir()
        (folder / f"ksplice-{folder.name}.tar.gz").write_bytes(data)
        (folder / f"ksplice-{folder.name}.tar.gz.minisig").write_bytes(samples.signature(data))
    parts = vars(host.new_engine())
    names = ("store", "kernel", "keyring", "settings", "clock", "owner")
    engine = CountingEngine(**{name: parts[name] for name in names})
    shown, worker = Shown(), Worker()
    runner = Runner(
        engine, worker, cast(Objects, shown), cast(Polkit, None), NoJournal(), tmp_path / "modules"
    )

    async def main() -> None:
        await runner.reconcile()
        await runner.show()  # behind all that is on its way

    run(main())
    worker.stop()
    assert len(shown.paths) == 50
    assert engine.lists <= 5
