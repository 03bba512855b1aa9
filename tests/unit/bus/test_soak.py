# SPDX-License-Identifier: GPL-2.0-only
"""What follows from a complaint of the kernel, over a simulated one and without a bus."""

from pathlib import Path

from ksplicd.bus.coroutines import Wait, Worker
from ksplicd.bus.soak_watch import SoakWatch
from ksplicd.config import Settings
from ksplicd.errors import StoreError
from ksplicd.host.kernel.kmsg import Complaint
from ksplicd.host.stages import Direction, Transition
from ksplicd.model import Stage
from tests.support.bundles import samples
from tests.support.bus.loop import run
from tests.support.bus.runner import CountingEngine, Shown, make_runner, wait_for_stage
from tests.support.host.host import NEW, ROOT, Host


class LateEngine(CountingEngine):
    """A transition ends just before it would be turned around."""

    def cancel(self, transition: Transition, cause: str) -> Transition:
        self.kernel.complete()  # type: ignore[attr-defined]
        return super().cancel(transition, cause)

    def is_finished(self, transition: Transition) -> bool:
        if transition.direction is Direction.UNDO:
            self.kernel.complete()  # type: ignore[attr-defined]
        return super().is_finished(transition)


class FullEngine(CountingEngine):
    """What the kernel complains of cannot be written."""

    def heed(self, kid: str, complaint: Complaint) -> bool:
        super().heed(kid, complaint)
        raise StoreError("history.jsonl: No space left on device")

    def is_finished(self, transition: Transition) -> bool:
        self.kernel.complete()  # type: ignore[attr-defined]
        return super().is_finished(transition)


def undoing_host(folder: Path) -> Host:
    """Return a host with a staged update that is to be undone when the kernel complains of it."""
    host = Host(folder)
    host.settings = Settings(undo_on_warning=True)
    host.stage()
    return host


def complaint_now(host: Host) -> Complaint:
    return Complaint(
        time=host.clock.monotonic(), headline="WARNING: x", function="do_fcntl", module=NEW
    )


def test_full_disk_keeps_nothing_from_being_undone(tmp_path: Path) -> None:
    host = undoing_host(tmp_path)
    host.apply()
    worker = Worker()
    runner, engine = make_runner(host, Shown(), worker, FullEngine)
    soak = SoakWatch(runner, tmp_path / "kmsg")

    async def main() -> None:
        await runner.reconcile()
        await soak._heed(samples.KID, complaint_now(host))
        assert (await runner.get_update(samples.KID)).stage is Stage.REVERSED

    run(main())
    soak.stop()
    worker.stop()
    assert engine.complaint_of(samples.KID) == ""


def test_applied_before_it_was_turned_around_it_is_undone(tmp_path: Path) -> None:
    host = undoing_host(tmp_path)
    worker = Worker()
    runner, engine = make_runner(host, Shown(), worker, LateEngine)
    soak = SoakWatch(runner, tmp_path / "kmsg")

    async def main() -> None:
        await runner.reconcile()
        job = await runner.start(Direction.APPLY, samples.KID, ROOT)
        await soak._heed(samples.KID, complaint_now(host))
        assert await Wait(job.ended) == "done"
        await wait_for_stage(runner, samples.KID, Stage.REVERSED)

    run(main())
    soak.stop()
    worker.stop()
    (undo,) = (event for event in engine.history() if event.stage is Stage.REVERSING)
    assert undo.detail == "undo-on-warning: WARNING: x"
