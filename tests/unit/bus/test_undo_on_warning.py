# SPDX-License-Identifier: GPL-2.0-only
"""Consequences of a kernel's complaint, over a simulated kernel and without a bus."""

from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd.bus import coroutines
from ksplicd.bus.coroutines import Wait
from ksplicd.bus.undo_on_warning import UndoOnWarning
from ksplicd.config import Settings
from ksplicd.errors import InUseError, StoreError
from ksplicd.host.kernel.kmsg import Complaint
from ksplicd.host.stages import Actor, Direction, Transition
from ksplicd.host.updates.doors import Doors
from ksplicd.host.updates.soak import Soak
from ksplicd.model import Stage
from tests.support.bundles import samples
from tests.support.bus.loop import run
from tests.support.bus.parts import CountingEngine, make_parts
from tests.support.host.host import NEW, ROOT, Host


class LateEngine(CountingEngine):
    """A transition ends just before it would be turned around."""

    def cancel(self, transition: Transition, cause: str) -> Transition:
        self.doors.kernel.complete()  # type: ignore[attr-defined]
        return super().cancel(transition, cause)

    def is_finished(self, transition: Transition) -> bool:
        if transition.direction is Direction.UNDO:
            self.doors.kernel.complete()  # type: ignore[attr-defined]
        return super().is_finished(transition)


class FullSoak(Soak):
    """A complaint of the kernel cannot be written."""

    def record_complaint(self, kid: str, complaint: Complaint) -> bool:
        super().record_complaint(kid, complaint)
        raise StoreError("history.jsonl: No space left on device")


class FullEngine(CountingEngine):
    def __init__(self, doors: Doors) -> None:
        super().__init__(doors)
        self.soak = FullSoak(doors, self.records)

    def is_finished(self, transition: Transition) -> bool:
        self.doors.kernel.complete()  # type: ignore[attr-defined]
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
    parts = make_parts(host, FullEngine)
    policy = UndoOnWarning(parts.worker, parts.jobs, parts.shown)

    async def main() -> None:
        await parts.reconciler.reconcile()
        await policy.record(samples.KID, complaint_now(host))
        assert (await parts.worker.get_update(samples.KID)).stage is Stage.REVERSED

    run(main())
    parts.worker.stop()
    assert parts.engine.soak.complaint_of(samples.KID) == ""


@pytest.mark.parametrize(
    "headline",
    [
        "INFO: task cat:812 blocked for more than 120 seconds.",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "rcu: INFO: rcu_preempt self-detected stall on CPU",
    ],
)
def test_stall_that_a_user_made_undoes_nothing(
    tmp_path: Path, headline: str, caplog: pytest.LogCaptureFixture
) -> None:
    host = undoing_host(tmp_path)
    host.apply()
    parts = make_parts(host, FullEngine)
    policy = UndoOnWarning(parts.worker, parts.jobs, parts.shown)

    async def main() -> None:
        await parts.reconciler.reconcile()
        for _ in range(3):
            await policy.record(samples.KID, replace(complaint_now(host), headline=headline))
        assert (await parts.worker.get_update(samples.KID)).stage is Stage.APPLIED
        assert caplog.text.count("it is not undone for that") == 1
        await policy.record(samples.KID, complaint_now(host))  # which still counts
        await parts.wait_for_stage(samples.KID, Stage.REVERSED)

    run(main())
    parts.worker.stop()


def test_applied_before_it_was_turned_around_it_is_undone(tmp_path: Path) -> None:
    host = undoing_host(tmp_path)
    parts = make_parts(host, LateEngine)
    policy = UndoOnWarning(parts.worker, parts.jobs, parts.shown)

    async def main() -> None:
        await parts.reconciler.reconcile()
        job = await parts.jobs.start(Direction.APPLY, samples.KID, ROOT)
        await policy.record(samples.KID, complaint_now(host))
        assert await Wait(job.ended) == "done"
        await parts.wait_for_stage(samples.KID, Stage.REVERSED)

    run(main())
    parts.worker.stop()
    (undo,) = (event for event in parts.engine.records.events() if event.stage is Stage.REVERSING)
    assert undo.detail == "undo-on-warning: WARNING: x"


class BusyEngine(CountingEngine):
    """The first undo is refused, and ksplicd.conf is read again then."""

    undos = 0

    def start_undo(self, kid: str, actor: Actor, why: str = "", below: str = "") -> Transition:
        self.undos += 1
        if self.undos == 1:
            self.doors.settings = Settings(undo_on_warning=True, retry_delay=0)
            raise InUseError("another transition runs")
        self.doors.kernel.complete()  # type: ignore[attr-defined]
        return super().start_undo(kid, actor, why, below)

    def is_finished(self, transition: Transition) -> bool:
        self.doors.kernel.complete()  # type: ignore[attr-defined]
        return super().is_finished(transition)


def test_next_try_is_when_the_settings_of_now_say(tmp_path: Path) -> None:
    host = undoing_host(tmp_path)
    host.settings = Settings(undo_on_warning=True, retry_delay=86400)
    host.apply()
    parts = make_parts(host, BusyEngine)
    policy = UndoOnWarning(parts.worker, parts.jobs, parts.shown)

    async def main() -> None:
        await parts.reconciler.reconcile()
        coroutines.spawn(policy.record(samples.KID, complaint_now(host)))
        await parts.wait_for_stage(samples.KID, Stage.REVERSED)

    run(main())
    parts.worker.stop()


class FaultyEngine(LateEngine):
    """The first undo meets a fault of our own."""

    undos = 0

    def start_undo(self, kid: str, actor: Actor, why: str = "", below: str = "") -> Transition:
        self.undos += 1
        if self.undos == 1:
            raise ZeroDivisionError("a fault")
        return super().start_undo(kid, actor, why, below)


def test_fault_of_our_own_keeps_no_later_undo_away(tmp_path: Path) -> None:
    host = undoing_host(tmp_path)
    host.apply()
    parts = make_parts(host, FaultyEngine)
    policy = UndoOnWarning(parts.worker, parts.jobs, parts.shown)

    async def main() -> None:
        await parts.reconciler.reconcile()
        with pytest.raises(ZeroDivisionError, match="a fault"):
            await policy.record(samples.KID, complaint_now(host))
        await policy.resume()
        await parts.wait_for_stage(samples.KID, Stage.REVERSED)

    run(main())
    parts.worker.stop()
