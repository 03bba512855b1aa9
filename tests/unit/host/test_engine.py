# SPDX-License-Identifier: GPL-2.0-only
"""The engine's arrows on the simulator, where everything goes well."""

import pytest

from ksplicd.errors import UnexpectedError
from ksplicd.host.kernel.door import CoreState, LivepatchState
from ksplicd.host.stages import Direction
from ksplicd.model import Stage
from tests.support.bundles import samples
from tests.support.bundles.samples import KID
from tests.support.host.host import ALICE, CORE, NEW, OLD, Host
from tests.support.host.simulator import Simulator


def test_apply_and_undo(host: Host) -> None:
    assert host.stage().stage is Stage.STAGED
    transition = host.engine.start_apply(KID, ALICE)
    assert transition.direction is Direction.APPLY
    assert host.engine.get_update(KID).stage is Stage.TRANSITIONING
    assert not host.engine.is_finished(transition)
    assert host.kernel.leftovers() == [CORE, NEW, OLD]
    host.engine.tidy(transition)
    assert host.kernel.leftovers() == [CORE, NEW]

    host.clock.now += 1.2
    host.kernel.complete()
    assert host.engine.is_finished(transition)
    info = host.engine.finish(transition)
    assert (info.stage, info.abort_cause, info.detail) == (Stage.APPLIED, "", "after 1.2 s")
    assert info.manifest.cves == ("CVE-2026-12345",)

    transition = host.engine.start_undo(KID, ALICE)
    assert host.engine.get_update(KID).stage is Stage.REVERSING
    host.kernel.complete()
    assert host.engine.finish(transition).stage is Stage.REVERSED
    assert host.kernel.leftovers() == []
    assert host.kernel.calls == [
        *(f"load {CORE}", f"load {OLD}", f"load {NEW}", f"unload {OLD}"),
        *(f"enable {NEW}=0", f"unload {NEW}", f"unload {CORE}"),
    ]


def test_history_tells_every_stage_with_time_and_actor(host: Host) -> None:
    host.stage()
    host.apply()
    host.undo()
    events = list(host.engine.records.events())[::-1]
    assert [event.stage.value for event in events] == [
        *("staged", "loading", "matched", "transitioning", "applied", "reversing", "reversed"),
    ]
    assert {event.actor for event in events} == {ALICE}
    assert {event.boot_id for event in events} == {host.kernel.boot_id()}
    assert {event.time for event in events} == {host.clock.now}
    assert events[2].detail == "2 functions, 812 bytes, 5.1 ms"
    assert events == host.events
    assert host.last_event() == events[-1]


def test_apply_again_after_undo(host: Host) -> None:
    host.stage()
    host.apply()
    host.undo()
    assert host.apply().stage is Stage.APPLIED


def test_every_target_is_matched(host: Host) -> None:
    host.kernel.insert("nf_tables")
    host.stage(samples.bundle(targets=("vmlinux", "nf-tables")))
    assert host.apply().stage is Stage.APPLIED
    assert f"unload ksplice_{KID}_nf_tables_old" in host.kernel.calls


def test_describe(host: Host) -> None:
    host.stage()
    host.apply()
    told = host.engine.describe(KID)
    assert told["Stage"] == "applied"
    assert told["Functions"] == ["vmlinux:do_fcntl (fs/fcntl.c)"]
    assert told["SignedBy"] == samples.KEY.public.name
    assert told["Modules"] == [NEW, CORE]


class BlindKernel(Simulator):
    """Once a load has failed, sysfs cannot be read: there is no free descriptor."""

    is_blind = False

    def load_module(self, data: bytes, name: str, parameters: str = "") -> None:
        if name == OLD and not self.is_blind:
            self.is_blind = True
            raise UnexpectedError(f"{name}: no memory file to load it from: Too many open files")
        super().load_module(data, name, parameters)

    def livepatch(self, name: str) -> LivepatchState | None:
        self._look()
        return super().livepatch(name)

    def modules(self) -> frozenset[str]:
        self._look()
        return super().modules()

    def core(self, kid: str) -> CoreState | None:
        self._look()
        return super().core(kid)

    def _look(self) -> None:
        if self.is_blind:
            raise UnexpectedError("sysfs: Too many open files")


def test_failure_is_recorded_also_when_the_kernel_cannot_be_asked(host: Host) -> None:
    """Otherwise it would count as moving until the next start, and nothing could be applied."""
    host.kernel = kernel = BlindKernel()
    host.engine = host.new_engine()
    host.engine.reconcile()
    host.stage()
    with pytest.raises(UnexpectedError, match="Too many open files"):
        host.apply()
    assert kernel.leftovers() == []
    assert host.events[-1].stage is Stage.FAILED
    assert kernel.is_blind
    kernel.is_blind = False
    assert host.engine.get_update(KID).stage is Stage.FAILED
