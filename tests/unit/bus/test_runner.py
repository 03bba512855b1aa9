# SPDX-License-Identifier: GPL-2.0-only
"""The runner over a simulated kernel, without a bus."""

from pathlib import Path

from ksplicd.bus.coroutines import Wait, Worker, sleep
from ksplicd.bus.job import DONE
from ksplicd.bus.runner import Runner
from ksplicd.config import Settings
from ksplicd.errors import InUseError
from ksplicd.host.kernel.door import LivepatchState
from ksplicd.host.stages import DAEMON, Direction
from ksplicd.model import Stage
from tests.support.bundles import samples
from tests.support.bus.loop import run
from tests.support.bus.runner import Shown, make_runner, wait_for_stage
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
    shown, worker = Shown(), Worker()
    runner, engine = make_runner(host, shown, worker)

    async def main() -> None:
        await runner.reconcile()
        await runner.show()  # behind all that is on its way

    run(main())
    worker.stop()
    assert len(shown.paths) == 50
    assert engine.lists <= 5


def test_module_that_somebody_unloads_while_we_are_busy(tmp_path: Path) -> None:
    """It is looked at when the turn is free, however many of its modules went."""
    host = Host(tmp_path)
    for kid in (samples.KID, samples.OTHER_KID):
        host.stage(samples.bundle(kid))
    host.apply(samples.OTHER_KID)
    worker = Worker()
    runner, engine = make_runner(host, Shown(), worker)
    stages: list[Stage] = []

    async def main() -> None:
        await runner.reconcile()
        job = await runner.start(Direction.APPLY, samples.KID, ROOT)
        host.kernel.complete()
        host.kernel.set_enabled(f"ksplice_{samples.OTHER_KID}_new", enabled=False)
        host.kernel.complete()
        for name in (f"ksplice_{samples.OTHER_KID}_new", f"ksplice_{samples.OTHER_KID}"):
            runner.hear_module(name)
        runner.hear_module(f"ksplice_{samples.KID}_vmlinux_old")  # we do that
        await Wait(job.ended)
        await runner.reconcile()  # behind all that is on its way
        stages.extend(event.stage for event in engine.history() if event.kid == samples.OTHER_KID)

    run(main())
    worker.stop()
    assert stages[0] is Stage.REVERSED
    assert engine.reconciled == 3


def test_our_own_modules_are_no_news(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.stage()
    worker = Worker()
    runner, engine = make_runner(host, Shown(), worker)

    async def main() -> None:
        await runner.reconcile()
        job = await runner.start(Direction.APPLY, samples.KID, ROOT)
        for name in (CORE, OLD, NEW):
            runner.hear_module(name)
        host.kernel.complete()
        await Wait(job.ended)
        await runner.reconcile()

    run(main())
    worker.stop()
    assert engine.reconciled == 2


class AutoKernel(Simulator):
    """Every transition ends when it is looked at."""

    def livepatch(self, name: str) -> LivepatchState | None:
        found = super().livepatch(name)
        self.complete()
        return found


def superseding(folder: Path, worker: Worker) -> tuple[Host, Runner]:
    """Return a host where ``KID`` is applied, and ``OTHER_KID``, which is instead of it, staged."""
    host = Host(folder)
    host.kernel = AutoKernel()
    host.settings = Settings(retries=1, retry_delay=0)
    host.engine = host.new_engine()
    host.engine.reconcile()
    host.stage()
    host.apply()
    host.stage(samples.bundle(samples.OTHER_KID, replaces=(samples.KID,)))
    runner, _ = make_runner(host, Shown(), worker)
    return host, runner


def test_what_is_superseded_is_taken_out_at_the_second_try(tmp_path: Path) -> None:
    worker = Worker()
    host, runner = superseding(tmp_path, worker)

    async def main() -> None:
        await runner.reconcile()
        # Three modules are loaded, one is unloaded, then the other update is to be disabled.
        host.kernel.fault = (len(host.kernel.calls) + 5, InUseError("another transition runs"))
        job = await runner.start(Direction.APPLY, samples.OTHER_KID, ROOT)
        assert await Wait(job.ended) == DONE
        await wait_for_stage(runner, samples.KID, Stage.REVERSED)

    run(main())
    worker.stop()
    assert f"enable {NEW}=0" in host.kernel.calls


def test_nothing_is_taken_out_for_what_is_undone_by_then(tmp_path: Path) -> None:
    """Who waits to undo the successor gets the turn before we do."""
    worker = Worker()
    _, runner = superseding(tmp_path, worker)

    async def main() -> None:
        await runner.reconcile()
        job = await runner.start(Direction.APPLY, samples.OTHER_KID, ROOT)
        back = await runner.start(Direction.UNDO, samples.OTHER_KID, ROOT)
        assert await Wait(job.ended) == DONE
        assert await Wait(back.ended) == DONE
        await runner.reconcile()  # behind all that is on its way
        await wait_for_stage(runner, samples.KID, Stage.APPLIED)

    run(main())
    worker.stop()


def test_what_somebody_depends_on_is_taken_out_when_that_is_undone(tmp_path: Path) -> None:
    worker, third = Worker(), "third000"
    host, runner = superseding(tmp_path, worker)
    host.stage(samples.bundle(third, depends=(samples.KID,)))
    host.apply(third)

    async def main() -> None:
        await runner.reconcile()
        job = await runner.start(Direction.APPLY, samples.OTHER_KID, ROOT)
        assert await Wait(job.ended) == DONE
        await sleep(0.1)
        await wait_for_stage(runner, samples.KID, Stage.APPLIED)
        job = await runner.start(Direction.UNDO, third, ROOT)
        assert await Wait(job.ended) == DONE
        await wait_for_stage(runner, samples.KID, Stage.REVERSED)
        await wait_for_stage(runner, samples.OTHER_KID, Stage.APPLIED)

    run(main())
    worker.stop()
    last = host.new_engine().history()[0]
    assert (last.kid, last.actor) == (samples.KID, DAEMON)
    assert last.detail.startswith(f"superseded by update {samples.OTHER_KID}; ")
