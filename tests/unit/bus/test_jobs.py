# SPDX-License-Identifier: GPL-2.0-only
"""Jobs over a simulated kernel, without a bus."""

from pathlib import Path

from ksplicd.bus.coroutines import Wait, sleep
from ksplicd.bus.names import DONE
from ksplicd.config import Settings
from ksplicd.errors import InUseError
from ksplicd.host.kernel.door import LivepatchState
from ksplicd.host.stages import DAEMON, Direction
from ksplicd.model import Stage
from tests.support.bundles import samples
from tests.support.bus.loop import run
from tests.support.bus.parts import Parts, make_parts
from tests.support.host.host import CORE, NEW, OLD, ROOT, Host
from tests.support.host.simulator import Simulator


def test_many_new_updates_are_listed_a_few_times(tmp_path: Path) -> None:
    """Each of their events is news; a thousand lists of a thousand took 17 s at a first start."""
    host = Host(tmp_path)
    for number in range(50):
        data = samples.bundle(f"kid{number:05}")
        folder = host.root / "updates" / f"kid{number:05}"
        folder.mkdir()
        (folder / f"ksplice-{folder.name}.tar.gz").write_bytes(data)
        (folder / f"ksplice-{folder.name}.tar.gz.minisig").write_bytes(samples.signature(data))
    parts = make_parts(host)

    async def main() -> None:
        await parts.reconciler.reconcile()
        await parts.shown.show()  # behind all that is on its way

    run(main())
    parts.worker.stop()
    assert len(parts.paths.paths) == 50
    assert parts.engine.lists <= 5


def test_module_that_somebody_unloads_while_we_are_busy(tmp_path: Path) -> None:
    """It is looked at when the turn is free, however many of its modules went."""
    host = Host(tmp_path)
    for kid in (samples.KID, samples.OTHER_KID):
        host.stage(samples.bundle(kid))
    host.apply(samples.OTHER_KID)
    parts = make_parts(host)
    stages: list[Stage] = []

    async def main() -> None:
        await parts.reconciler.reconcile()
        job = await parts.jobs.start(Direction.APPLY, samples.KID, ROOT)
        host.kernel.complete()
        host.kernel.set_enabled(f"ksplice_{samples.OTHER_KID}_new", enabled=False)
        host.kernel.complete()
        for name in (f"ksplice_{samples.OTHER_KID}_new", f"ksplice_{samples.OTHER_KID}"):
            parts.reconciler.notice_module(name)
        parts.reconciler.notice_module(f"ksplice_{samples.KID}_vmlinux_old")  # we do that
        await Wait(job.ended)
        await parts.reconciler.reconcile()  # behind all that is on its way
        events = parts.engine.records.events()
        stages.extend(event.stage for event in events if event.kid == samples.OTHER_KID)

    run(main())
    parts.worker.stop()
    assert stages[0] is Stage.REVERSED
    assert parts.engine.reconciled == 3


def test_undone_module_stays_until_ftrace_has_let_go(tmp_path: Path) -> None:
    """Unloading it would fail for longer than it is tried."""
    host = Host(tmp_path)
    host.stage()
    host.apply()
    parts = make_parts(host)
    seen: list[list[str]] = []

    async def main() -> None:
        await parts.reconciler.reconcile()
        job = await parts.jobs.start(Direction.UNDO, samples.KID, ROOT)
        host.kernel.letting_go.add(NEW)
        host.kernel.complete()
        await sleep(0.3)
        seen.append(host.kernel.leftovers())
        host.kernel.letting_go.clear()
        assert await Wait(job.ended) == DONE
        seen.append(host.kernel.leftovers())

    run(main())
    parts.worker.stop()
    assert seen == [[CORE, NEW], []]


def test_our_own_modules_are_no_news(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.stage()
    parts = make_parts(host)

    async def main() -> None:
        await parts.reconciler.reconcile()
        job = await parts.jobs.start(Direction.APPLY, samples.KID, ROOT)
        for name in (CORE, OLD, NEW):
            parts.reconciler.notice_module(name)
        host.kernel.complete()
        await Wait(job.ended)
        await parts.reconciler.reconcile()

    run(main())
    parts.worker.stop()
    assert parts.engine.reconciled == 2


class AutoKernel(Simulator):
    """Every transition ends when it is looked at."""

    def livepatch(self, name: str) -> LivepatchState | None:
        found = super().livepatch(name)
        self.complete()
        return found


def superseding(folder: Path) -> tuple[Host, Parts]:
    """Return a host where ``KID`` is applied, and ``OTHER_KID``, which is instead of it, staged."""
    host = Host(folder)
    host.kernel = AutoKernel()
    host.settings = Settings(retries=1, retry_delay=0)
    host.engine = host.new_engine()
    host.engine.reconcile()
    host.stage()
    host.apply()
    host.stage(samples.bundle(samples.OTHER_KID, replaces=(samples.KID,)))
    return host, make_parts(host)


def test_what_is_superseded_is_taken_out_at_the_second_try(tmp_path: Path) -> None:
    host, parts = superseding(tmp_path)

    async def main() -> None:
        await parts.reconciler.reconcile()
        # Three modules are loaded, one is unloaded, then the other update is to be disabled.
        host.kernel.fault = (len(host.kernel.calls) + 5, InUseError("another transition runs"))
        job = await parts.jobs.start(Direction.APPLY, samples.OTHER_KID, ROOT)
        assert await Wait(job.ended) == DONE
        await parts.wait_for_stage(samples.KID, Stage.REVERSED)

    run(main())
    parts.worker.stop()
    assert f"enable {NEW}=0" in host.kernel.calls


def test_nothing_is_taken_out_for_what_is_undone_by_then(tmp_path: Path) -> None:
    """Who waits to undo the successor gets the turn before we do."""
    _, parts = superseding(tmp_path)

    async def main() -> None:
        await parts.reconciler.reconcile()
        job = await parts.jobs.start(Direction.APPLY, samples.OTHER_KID, ROOT)
        back = await parts.jobs.start(Direction.UNDO, samples.OTHER_KID, ROOT)
        assert await Wait(job.ended) == DONE
        assert await Wait(back.ended) == DONE
        await parts.reconciler.reconcile()  # behind all that is on its way
        await parts.wait_for_stage(samples.KID, Stage.APPLIED)

    run(main())
    parts.worker.stop()


def test_what_somebody_depends_on_is_taken_out_when_that_is_undone(tmp_path: Path) -> None:
    third = "third000"
    host, parts = superseding(tmp_path)
    host.stage(samples.bundle(third, depends=(samples.KID,)))
    host.apply(third)

    async def main() -> None:
        await parts.reconciler.reconcile()
        job = await parts.jobs.start(Direction.APPLY, samples.OTHER_KID, ROOT)
        assert await Wait(job.ended) == DONE
        await sleep(0.1)
        await parts.wait_for_stage(samples.KID, Stage.APPLIED)
        job = await parts.jobs.start(Direction.UNDO, third, ROOT)
        assert await Wait(job.ended) == DONE
        await parts.wait_for_stage(samples.KID, Stage.REVERSED)
        await parts.wait_for_stage(samples.OTHER_KID, Stage.APPLIED)

    run(main())
    parts.worker.stop()
    last = next(host.new_engine().records.events())
    assert (last.kid, last.actor) == (samples.KID, DAEMON)
    assert last.detail.startswith(f"superseded by update {samples.OTHER_KID}; ")
