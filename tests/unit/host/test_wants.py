# SPDX-License-Identifier: GPL-2.0-only
"""What is wanted outlives faults, boots and kernels, and ends by a verdict or a person's word."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksplicd.errors import (
    AlreadyReversedError,
    KspliceError,
    ReplayedError,
    StoreError,
    UnexpectedError,
)
from ksplicd.host.stages import BOOT, DAEMON, Actor, Via
from ksplicd.host.store.wanted import Want, read_wanted, write_wanted
from ksplicd.host.updates.missing import NOT_YET
from ksplicd.host.updates.wants import VERDICTS
from ksplicd.model import Kernel
from tests.support.bundles import samples
from tests.support.bundles.samples import KID, OTHER_KID
from tests.support.host.host import ALICE, ROOT, Host
from tests.support.host.simulator import NO_MATCH

BUSY = UnexpectedError("memfd: Too many open files")


def wanted(host: Host) -> list[str]:
    return [want.kid for want in host.engine.records.wants]


def restart(host: Host) -> None:
    """Kill the daemon and start it anew."""
    host.engine = host.new_engine()
    host.engine.reconcile()


def fail_next_load(host: Host, error: KspliceError = BUSY) -> None:
    host.kernel._steps = 0
    host.kernel.fault = (1, error)


def try_to_apply(host: Host, actor: Actor) -> None:
    with pytest.raises(KspliceError, match=r"\w"):
        host.engine.start_apply(KID, actor)


@pytest.fixture
def applied(host: Host) -> Host:
    host.stage()
    host.apply()
    return host


@pytest.fixture
def after_boot(applied: Host) -> Host:
    """A host where the update was applied before the boot, and is not yet."""
    applied.reboot()
    restart(applied)
    return applied


# --- what begins it, and what ends it -------------------------------------------------------------


def test_applied_is_wanted(applied: Host) -> None:
    (want,) = applied.engine.records.wants
    assert want == Want(
        kid=KID, since=1700000000.0, actor=ALICE, is_applied=True,
        kernel=replace(samples.KERNEL, version=samples.KERNEL.version),
    )  # fmt: skip
    assert applied.engine.get_update(KID).is_wanted
    assert applied.engine.missing() == {}


def test_staged_is_not(host: Host) -> None:
    host.stage()
    assert wanted(host) == []


def test_undone_is_not(applied: Host) -> None:
    applied.undo()
    assert wanted(applied) == []
    restart(applied)
    assert wanted(applied) == []


def test_undo_ends_it_at_once(applied: Host) -> None:
    """A power failure in the transition must not bring it back."""
    applied.engine.start_undo(KID, ALICE)
    assert wanted(applied) == []
    applied.reboot(clean=False)
    restart(applied)
    assert (wanted(applied), applied.engine.due()) == ([], [])


def test_undo_that_was_held_up_leaves_it_as_it_was(applied: Host) -> None:
    (before,) = applied.engine.records.wants
    applied.clock.now += 60
    transition = applied.engine.cancel(applied.engine.start_undo(KID, ROOT), "code_busy")
    applied.kernel.complete()
    applied.engine.finish(transition)
    assert list(applied.engine.records.wants) == [before]


def test_undone_by_somebody_else_is_not(applied: Host) -> None:
    applied.kernel.set_enabled(f"ksplice_{KID}_new", enabled=False)
    applied.kernel.complete()
    restart(applied)
    assert wanted(applied) == []


def test_removed_is_not(after_boot: Host) -> None:
    after_boot.engine.remove(KID, ALICE)
    assert wanted(after_boot) == []
    restart(after_boot)
    assert after_boot.engine.missing() == {}


@pytest.mark.parametrize("cause", sorted(VERDICTS - {"kernel_warning"}))
def test_verdict_ends_it(after_boot: Host, cause: str) -> None:
    after_boot.kernel.mismatches["vmlinux"] = (cause, NO_MATCH)
    try_to_apply(after_boot, BOOT)
    assert wanted(after_boot) == []
    restart(after_boot)
    assert wanted(after_boot) == []


def test_quarantine_ends_it(applied: Host) -> None:
    applied.reboot(clean=False)
    restart(applied)
    assert wanted(applied) == []
    applied.engine.release(KID, ALICE)
    assert wanted(applied) == []


# --- what does not --------------------------------------------------------------------------------


@pytest.mark.parametrize("actor", [BOOT, DAEMON, ROOT, ALICE])
def test_fault_does_not_end_it(after_boot: Host, actor: Actor) -> None:
    fail_next_load(after_boot)
    try_to_apply(after_boot, actor)
    assert wanted(after_boot) == [KID]
    assert "Too many open files" in after_boot.engine.missing()[KID]
    restart(after_boot)
    assert after_boot.engine.due() == [(KID, BOOT)]


def test_caller_who_was_told_is_left_alone(host: Host) -> None:
    """It was never applied, and nothing happens behind his back."""
    host.stage()
    fail_next_load(host)
    try_to_apply(host, ALICE)
    assert wanted(host) == []


def test_what_policy_wants_is_wanted_before_its_first_apply(host: Host) -> None:
    host.stage()
    host.engine.records.want(KID, ROOT)
    assert host.engine.missing() == {KID: NOT_YET}
    fail_next_load(host)
    try_to_apply(host, ROOT)
    restart(host)
    assert host.engine.due() == [(KID, ROOT)]
    host.engine.records.unwant_new(KID)
    assert wanted(host) == []


def test_policy_does_not_end_what_was_applied(applied: Host) -> None:
    applied.engine.records.unwant_new(KID)
    assert wanted(applied) == [KID]


def test_another_kernel_misses_nothing(applied: Host) -> None:
    applied.reboot()
    applied.kernel.kernel = Kernel(release="6.12.0", build_id="00" * 20)
    restart(applied)
    assert (wanted(applied), applied.engine.missing()) == ([KID], {})
    assert applied.engine.due() == []
    applied.reboot()
    applied.kernel.kernel = samples.KERNEL
    restart(applied)
    assert applied.engine.missing() == {KID: NOT_YET}


@pytest.mark.parametrize("lose", ["bundle", "key"])
def test_what_cannot_be_applied_is_missing(after_boot: Host, lose: str) -> None:
    if lose == "key":
        (after_boot.keys / "test.pub").unlink()
    else:
        next((after_boot.root / "updates" / KID).glob("*.tar.gz")).unlink()
    restart(after_boot)
    assert [*after_boot.engine.missing()] == [KID]
    assert after_boot.engine.due() == []


def test_undo_ends_it_also_without_a_bundle(after_boot: Host) -> None:
    shutil.rmtree(after_boot.root / "updates" / KID)
    restart(after_boot)
    assert after_boot.engine.missing() == {KID: "its bundle is not stored here"}
    with pytest.raises(AlreadyReversedError, match="it is not wanted any more"):
        after_boot.engine.start_undo(KID, ALICE)
    restart(after_boot)
    assert after_boot.engine.missing() == {}


def test_wanted_again_after_an_undo(applied: Host) -> None:
    """What was undone for a successor that then failed is wanted, and tried, until it is there."""
    applied.undo()
    applied.clock.now += 1
    applied.engine.records.want(KID, DAEMON)
    fail_next_load(applied)
    try_to_apply(applied, DAEMON)
    applied.engine.staging.check_not_undone(KID)
    assert wanted(applied) == [KID]


def test_wanted_again_after_an_undo_with_a_clock_that_was_put_back(applied: Host) -> None:
    applied.undo()
    applied.clock.wrong = -3600
    applied.engine.records.want(KID, ALICE)
    applied.engine = applied.new_engine()
    applied.engine.reconcile()
    assert KID in applied.engine.records.wants


def test_undo_that_has_its_turn_first_wins(after_boot: Host) -> None:
    """An automatic apply may have been queued behind it while another update moved."""
    with pytest.raises(AlreadyReversedError, match="it is not wanted any more"):
        after_boot.engine.start_undo(KID, ALICE)
    with pytest.raises(ReplayedError, match="is not wanted any more"):
        after_boot.engine.start_apply(KID, BOOT, if_wanted=True)
    assert after_boot.kernel.livepatches() == frozenset()


def test_wanted_again_after_an_undo_and_killed(applied: Host) -> None:
    applied.undo()
    applied.clock.now += 1
    applied.engine.records.want(KID, DAEMON)
    restart(applied)
    assert wanted(applied) == [KID]


def test_in_the_order_in_which_they_were_wanted(host: Host) -> None:
    host.stage()
    host.stage(samples.bundle(OTHER_KID))
    host.apply(OTHER_KID)
    host.apply(KID)
    for _ in range(2):
        host.reboot()
        restart(host)
        assert [kid for kid, _ in host.engine.due()] == [OTHER_KID, KID]
        host.apply(KID)
        host.apply(OTHER_KID)


# --- the file -------------------------------------------------------------------------------------


def forget_file(host: Host) -> None:
    (host.root / "wanted.json").unlink()


def spoil_file(host: Host) -> None:
    (host.root / "wanted.json").write_bytes(b"{")


@pytest.mark.parametrize("lose", [forget_file, spoil_file])
def test_without_the_file_the_history_says_what_is_wanted(
    after_boot: Host, lose: Callable[[Host], None]
) -> None:
    """As after an update from a version that had none."""
    lose(after_boot)
    restart(after_boot)
    assert wanted(after_boot) == [KID]
    fail_next_load(after_boot)
    try_to_apply(after_boot, BOOT)
    lose(after_boot)
    restart(after_boot)
    assert wanted(after_boot) == [KID]
    after_boot.apply()
    after_boot.undo()
    lose(after_boot)
    restart(after_boot)
    assert wanted(after_boot) == []


def test_file_that_cannot_be_written_is_written_later(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = host.root / "wanted.json"
    in_the_way.mkdir()
    host.stage()
    host.apply()
    assert wanted(host) == [KID]
    assert "what is wanted cannot be written down yet" in caplog.text
    in_the_way.rmdir()
    host.engine.records.catch_up()
    assert [want.kid for want in read_wanted(in_the_way.read_bytes())] == [KID]


def test_what_cannot_be_written_outlives_a_reconciliation(host: Host) -> None:
    (host.root / "wanted.json").mkdir()
    host.stage()
    host.engine.records.want(KID, ROOT)
    host.engine.reconcile()
    assert wanted(host) == [KID]
    (host.root / "wanted.json").rmdir()
    host.engine.records.catch_up()
    restart(host)
    assert wanted(host) == [KID]


def test_events_win_where_a_kill_came_between(applied: Host) -> None:
    old = (applied.root / "wanted.json").read_bytes()
    applied.undo()
    (applied.root / "wanted.json").write_bytes(old)
    restart(applied)
    assert wanted(applied) == []


actors = st.builds(
    Actor, uid=st.integers(0, 2**32 - 1), pid=st.integers(0, 2**32 - 1),
    unit=st.sampled_from(["", "ssh.service"]), via=st.sampled_from(Via),
)  # fmt: skip
wants = st.lists(
    st.builds(
        Want, kid=st.from_regex(r"[a-z0-9]{8}", fullmatch=True), since=st.floats(0, 2**39),
        actor=actors, is_applied=st.booleans(),
        kernel=st.builds(Kernel, release=st.just("6.1.0"), build_id=st.sampled_from(["", "ab"])),
    ),
    unique_by=lambda want: want.kid,
)  # fmt: skip


@given(wants)
def test_round_trip(found: list[Want]) -> None:
    assert read_wanted(write_wanted(found)) == found


@given(st.binary())
def test_any_file_is_read_or_refused(data: bytes) -> None:
    with pytest.raises(StoreError, match=r"^wanted\.json: "):
        read_wanted(data)


def test_file_of_a_released_version() -> None:
    data = (Path(__file__).parent / "data/wanted-0.1.0.json").read_bytes()
    assert write_wanted(read_wanted(data)) == data
