# SPDX-License-Identifier: GPL-2.0-only
"""The engine's arrows on the simulator, where everything goes well."""

from ksplicd.host.state import Direction
from ksplicd.model import Stage
from tests.bundles import samples
from tests.bundles.samples import KID
from tests.unit.host.host import ALICE, CORE, NEW, OLD, Host


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
    events = host.engine.history()[::-1]
    assert [event.stage.value for event in events] == [
        *("staged", "loading", "matched", "transitioning", "applied", "reversing", "reversed"),
    ]
    assert {event.actor for event in events} == {ALICE}
    assert {event.boot_id for event in events} == {host.kernel.boot_id()}
    assert {event.time for event in events} == {host.clock.now}
    assert events[2].detail == "2 functions, 812 bytes, 5.1 ms"
    assert events == host.events
    assert host.engine.history(2) == [events[-1], events[-2]]


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
