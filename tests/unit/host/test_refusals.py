# SPDX-License-Identifier: GPL-2.0-only
"""Refusals of the engine before anything is loaded, and dependencies of updates."""

import pytest

from ksplicd.config import LateMismatch, Settings
from ksplicd.errors import (
    AlreadyAppliedError,
    AlreadyReversedError,
    BadSignatureError,
    ExcludedError,
    InUseError,
    MissingDependencyError,
    NoMatchError,
    NoSuchUpdateError,
    ReplayedError,
    SupersededError,
    TargetNotLoadedError,
)
from ksplicd.model import Stage
from tests.support.bundles import samples
from tests.support.bundles.samples import KID, OTHER_KID
from tests.support.host.host import ALICE, Host

# --- refusals -----------------------------------------------------------------------------------


def test_unknown_kid(host: Host) -> None:
    for call in (host.engine.start_apply, host.engine.start_undo, host.engine.remove):
        with pytest.raises(NoSuchUpdateError, match="nonesuch: no update of this id"):
            call("nonesuch", ALICE)


def test_already(host: Host) -> None:
    host.stage()
    with pytest.raises(AlreadyReversedError, match="is staged, not applied"):
        host.engine.start_undo(KID, ALICE)
    host.apply()
    with pytest.raises(AlreadyAppliedError, match=f"{KID}: is applied"):
        host.engine.start_apply(KID, ALICE)
    host.undo()
    with pytest.raises(AlreadyReversedError, match="is reversed, not applied"):
        host.engine.start_undo(KID, ALICE)


def test_one_update_at_a_time(host: Host) -> None:
    host.stage()
    host.stage(samples.bundle(OTHER_KID))
    host.engine.start_apply(KID, ALICE)
    with pytest.raises(InUseError, match=f"{KID}: is transitioning; one update at a time"):
        host.engine.start_apply(OTHER_KID, ALICE)
    with pytest.raises(InUseError, match=f"{KID}: is transitioning; one update at a time"):
        host.engine.start_undo(KID, ALICE)


def test_dependencies(host: Host) -> None:
    host.stage()
    host.stage(samples.bundle(OTHER_KID, depends=(KID,)))
    with pytest.raises(MissingDependencyError, match=f"depends on update {KID}, which is not app"):
        host.engine.start_apply(OTHER_KID, ALICE)
    host.apply(KID)
    host.apply(OTHER_KID)
    with pytest.raises(InUseError, match=f"update {OTHER_KID} depends on it"):
        host.engine.start_undo(KID, ALICE)
    host.undo(OTHER_KID)
    assert host.undo(KID).stage is Stage.REVERSED


def test_update_goes_on_top_of_what_it_is_instead_of(host: Host) -> None:
    host.stage()
    host.apply()
    host.stage(samples.bundle(OTHER_KID, replaces=(KID,)))
    assert host.engine.order.to_undo_before(OTHER_KID) == []
    assert host.apply(OTHER_KID).stage is Stage.APPLIED
    assert host.engine.order.superseded_by(OTHER_KID) == [KID]
    transition = host.engine.start_undo(KID, ALICE, f"superseded by update {OTHER_KID}")
    host.kernel.complete()
    info = host.engine.finish(transition)
    assert info.stage is Stage.REVERSED
    assert info.detail.startswith(f"superseded by update {OTHER_KID}; after ")
    assert host.engine.order.superseded_by(OTHER_KID) == []


def test_successor_takes_nothing_away_that_others_need(host: Host) -> None:
    third = "third000"
    host.stage()
    host.stage(samples.bundle(third, depends=(KID,)))
    host.stage(samples.bundle(OTHER_KID, replaces=(KID,)))
    host.stage(samples.bundle("fourth00", replaces=(KID, third)))
    for kid in (KID, third, OTHER_KID):
        host.apply(kid)
    assert host.engine.order.superseded_by(OTHER_KID) == []
    assert host.engine.order.superseded_by("fourth00") == [third, KID]
    host.undo(third)
    assert host.engine.order.superseded_by(OTHER_KID) == [KID]


def test_update_that_has_a_kprobe_is_undone_before_its_successor_comes(host: Host) -> None:
    host.stage(samples.bundle(how="kprobe"))
    host.apply()
    host.stage(samples.bundle(OTHER_KID, replaces=(KID,)))
    assert host.engine.order.to_undo_before(OTHER_KID) == [KID]
    with pytest.raises(InUseError, match=f"replaces update {KID}, which is applied .* undo that"):
        host.engine.start_apply(OTHER_KID, ALICE)


@pytest.mark.parametrize("who", [KID, OTHER_KID])
def test_updates_that_exclude_each_other(host: Host, who: str) -> None:
    """Whichever of the two excludes the other."""
    host.stage(samples.bundle(excludes=(OTHER_KID,) if who == KID else ()))
    host.stage(samples.bundle(OTHER_KID, excludes=(KID,) if who == OTHER_KID else ()))
    host.apply(OTHER_KID)
    why = rf"^{KID}: must not be applied together with update {OTHER_KID}, .* manifest of {who}\)"
    with pytest.raises(ExcludedError, match=why):
        host.apply()
    host.undo(OTHER_KID)
    host.apply()
    with pytest.raises(ExcludedError, match=f"^{OTHER_KID}: "):
        host.apply(OTHER_KID)


def test_function_that_another_update_replaces(host: Host) -> None:
    host.stage()
    host.apply()
    host.kernel.functions[f"ksplice_{KID}_new"] = frozenset({("vmlinux", "do_fcntl", 1)})
    calls = list(host.kernel.calls)
    host.stage(samples.bundle(OTHER_KID))
    other = f"vmlinux: do_fcntl is replaced by the live patch ksplice_{KID}_new"
    with pytest.raises(NoMatchError, match=other):
        host.engine.start_apply(OTHER_KID, ALICE)
    assert host.kernel.calls == calls
    host.undo()
    assert host.apply(OTHER_KID).stage is Stage.APPLIED


def test_update_on_top_of_another_one_of_the_same_id(host: Host) -> None:
    """The build id of the loaded module identifies the update below."""
    host.stage()
    host.apply()
    host.stage(samples.bundle(OTHER_KID, depends=(KID,), built_on={KID: "12" * 20}))
    host.kernel.build_ids[f"ksplice_{KID}_new"] = "34" * 20
    calls = list(host.kernel.calls)
    why = (
        rf"^{OTHER_KID}: was built on top of update {KID} with build id (12)+, .* has (34)+; build"
    )
    with pytest.raises(NoMatchError, match=why):
        host.engine.start_apply(OTHER_KID, ALICE)
    assert host.kernel.calls == calls
    host.kernel.build_ids[f"ksplice_{KID}_new"] = "12" * 20
    assert host.apply(OTHER_KID).stage is Stage.APPLIED


def test_update_on_top_of_another(host: Host) -> None:
    host.stage()
    host.apply()
    host.kernel.functions[f"ksplice_{KID}_new"] = frozenset({("vmlinux", "do_fcntl", 1)})
    host.stage(samples.bundle(OTHER_KID, depends=(KID,)))
    assert host.apply(OTHER_KID).stage is Stage.APPLIED
    host.kernel.start_foreign_transition("kpatch_fix")
    host.kernel.complete()
    host.kernel.functions["kpatch_fix"] = frozenset({("vmlinux", "do_fcntl", 2)})
    assert host.undo(OTHER_KID).stage is Stage.REVERSED
    assert host.apply(OTHER_KID).stage is Stage.APPLIED, "another function of the same name"


def test_target_not_loaded(host: Host) -> None:
    host.stage(samples.bundle(targets=("vmlinux", "nf_tables")))
    with pytest.raises(TargetNotLoadedError, match="patches module nf_tables, which is not loaded"):
        host.engine.start_apply(KID, ALICE)
    assert host.kernel.calls == []


@pytest.mark.parametrize("policy", LateMismatch)
def test_target_that_may_be_loaded_later(host: Host, policy: LateMismatch) -> None:
    host.engine.doors.settings = Settings(late_mismatch=policy)
    host.stage(samples.bundle(targets=("vmlinux", "nf_tables"), late="nf_tables"))
    assert host.apply().stage is Stage.APPLIED
    matched = next(e for e in list(host.engine.records.events()) if e.stage is Stage.MATCHED)
    assert matched.detail == "2 functions, 812 bytes, 5.1 ms; waits for nf_tables"
    leave = " leave_unmatched=1" if policy is LateMismatch.LEAVE else ""
    assert host.kernel.calls[:3] == [
        f"load ksplice_{KID}{leave}",
        f"load ksplice_{KID}_vmlinux_old",
        f"load ksplice_{KID}_nf_tables_old late=1",
    ]
    assert host.kernel.leftovers() == [f"ksplice_{KID}", f"ksplice_{KID}_new"]


def test_target_that_is_unloaded_meanwhile(host: Host) -> None:
    """The check before the load still found it."""
    host.kernel.insert("nf_tables")
    host.stage(samples.bundle(targets=("nf_tables",)))
    host.kernel.gone_after_check = "nf_tables"
    with pytest.raises(
        TargetNotLoadedError, match="a module that the update patches is not loaded"
    ):
        host.engine.start_apply(KID, ALICE)
    assert host.kernel.leftovers() == []


def test_altered_in_the_store(host: Host) -> None:
    host.stage()
    path = host.root / "updates" / KID / f"ksplice-{KID}.tar.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(BadSignatureError, match="did not sign"):
        host.engine.start_apply(KID, ALICE)
    assert host.kernel.calls == []


def test_withdrawn_key(host: Host) -> None:
    host.stage()
    (host.keys / "test.pub").unlink()
    with pytest.raises(BadSignatureError, match="not trusted here"):
        host.engine.start_apply(KID, ALICE)
    engine = host.new_engine()
    engine.reconcile()
    info = engine.get_update(KID)
    assert info.stage is Stage.REJECTED
    assert "not trusted here" in info.detail
    assert info.manifest.targets == ()


# --- what was taken out stays out ----------------------------------------------------------------


def test_superseded_update_is_refused_while_its_successor_is_applied(host: Host) -> None:
    host.stage(samples.bundle(OTHER_KID, replaces=(KID,)))
    host.apply(OTHER_KID)
    host.stage()
    with pytest.raises(SupersededError, match=f"^{KID}: is replaced by update {OTHER_KID}, which"):
        host.apply(KID)
    assert host.kernel.leftovers() == [f"ksplice_{OTHER_KID}", f"ksplice_{OTHER_KID}_new"]
    host.undo(OTHER_KID)
    assert host.apply(KID).stage is Stage.APPLIED


def test_undone_update_is_for_a_person_to_apply(host: Host) -> None:
    host.stage()
    host.engine.staging.check_not_undone(KID)
    host.apply()
    host.engine.staging.check_not_undone(KID)
    host.undo()
    with pytest.raises(ReplayedError, match=f"`ksplice apply {KID}` applies it"):
        host.engine.staging.check_not_undone(KID)
    host.engine.remove(KID, ALICE)
    host.stage()  # the old bundle comes back
    with pytest.raises(ReplayedError, match="was undone here"):
        host.engine.staging.check_not_undone(KID)
    host.apply()
    host.engine.staging.check_not_undone(KID)
