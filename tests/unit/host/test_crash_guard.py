# SPDX-License-Identifier: GPL-2.0-only
"""After a crash, an update that was new waits for a person."""

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksplicd.errors import (
    NoSuchUpdateError,
    NotQuarantinedError,
    QuarantinedError,
    ReplayedError,
    StoreError,
)
from ksplicd.host.stages import Actor, Event, Via
from ksplicd.host.store.crash_guard import Guard, Known, read_known, why_quarantined, write_known
from ksplicd.model import Stage
from tests.support.bundles import samples
from tests.support.bundles.samples import KID, OTHER_KID
from tests.support.host.host import ALICE, ROOT, Host

BOOT = Actor(uid=0, via=Via.BOOT)

boot_ids = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
kids = st.from_regex(r"[a-z0-9]{8}", fullmatch=True)
knowns = st.builds(
    Known,
    clean=st.frozensets(boot_ids),
    soaked=st.dictionaries(kids, boot_ids, max_size=5),
    chances=st.dictionaries(kids, boot_ids, max_size=3),
)


def start(host: Host) -> tuple[str, ...]:
    """Boot, and return the kids to apply again."""
    host.engine = host.new_engine()
    return host.engine.reconcile(BOOT).reapply


def stage_of(host: Host) -> str:
    return host.engine.get_update(KID).stage.value


def soak(host: Host, seconds: float = 600) -> None:
    """Let applied updates run for a while, as the daemon watches them."""
    host.engine.soak.watch()
    host.clock.now += seconds
    host.engine.soak.watch()


def test_young_update_is_quarantined_after_a_crash(host: Host) -> None:
    host.stage()
    host.apply()
    soak(host, 599)
    host.reboot(clean=False)
    assert start(host) == ()
    assert stage_of(host) == "quarantined"
    event = host.last_event()
    assert (event.stage, event.cause, event.actor) == (Stage.QUARANTINED, "quarantined", BOOT)
    assert "before the update had run for its soak time of 600 s" in event.detail


def test_soaked_update_comes_back_after_a_crash_and_is_young_again(host: Host) -> None:
    host.stage()
    host.apply()
    soak(host)
    host.reboot(clean=False)
    assert start(host) == (KID,)
    host.apply()
    host.reboot(clean=False)
    assert start(host) == ()
    assert stage_of(host) == "quarantined"


def test_young_update_comes_back_after_a_clean_shutdown(host: Host) -> None:
    host.stage()
    host.apply()
    host.reboot()
    assert start(host) == (KID,)
    host.reboot(clean=False)  # before it was applied again: it had no part in this
    assert start(host) == (KID,)


def test_applied_anew_in_the_same_boot_it_is_young_again(host: Host) -> None:
    host.stage()
    host.apply()
    soak(host)
    host.undo()
    host.apply()
    host.reboot(clean=False)
    assert start(host) == ()


def test_others_are_not_held_back(host: Host) -> None:
    host.stage()
    host.stage(samples.bundle(OTHER_KID))
    host.apply(OTHER_KID)
    soak(host)
    host.apply(KID)
    host.reboot(clean=False)
    assert start(host) == (OTHER_KID,)
    assert stage_of(host) == "quarantined"


# --- without a trace of a crash ------------------------------------------------------------------


@pytest.fixture
def cut(host: Host) -> Host:
    """A host whose power is cut a minute after an update was applied."""
    host.crash_trace = ""
    host.stage()
    host.apply()
    host.clock.now += 60
    host.reboot(clean=False)
    return host


def test_power_cut_quarantines_nothing(cut: Host, caplog: pytest.LogCaptureFixture) -> None:
    assert start(cut) == (KID,)
    assert "as nothing shows a crash, one more boot with it is allowed" in caplog.text
    assert start(cut) == (KID,)  # the daemon's start, in the same boot
    cut.engine.start_apply(KID, BOOT)
    cut.kernel.complete()
    assert start(cut) == ()
    assert stage_of(cut) == "applied"


def test_second_one_in_a_row_does(cut: Host) -> None:
    start(cut)
    cut.engine.start_apply(KID, BOOT)
    cut.kernel.complete()
    cut.reboot(clean=False)
    assert start(cut) == ()
    assert stage_of(cut) == "quarantined"
    assert cut.last_event().detail.endswith(", for the second time in a row")


def test_chance_that_was_not_taken_is_kept(cut: Host) -> None:
    """The boot was disabled, or its power was cut too."""
    for _ in range(3):
        assert start(cut) == (KID,)
        cut.reboot(clean=False)


def test_chance_is_given_again_after_the_soak_time(cut: Host) -> None:
    start(cut)
    transition = cut.engine.start_apply(KID, BOOT)
    cut.kernel.complete()
    cut.engine.finish(transition)
    soak(cut)
    cut.reboot()
    assert start(cut) == (KID,)
    transition = cut.engine.start_apply(KID, BOOT)
    cut.kernel.complete()
    cut.engine.finish(transition)
    cut.reboot(clean=False)
    assert start(cut) == (KID,)


def test_power_cut_in_the_middle_of_an_apply(host: Host) -> None:
    """What was wanted is tried once more."""
    host.crash_trace = ""
    host.stage()
    host.engine.start_apply(KID, ROOT)
    host.reboot(clean=False)
    assert start(host) == (KID,)
    host.engine.start_apply(KID, BOOT)
    host.reboot(clean=False)
    assert start(host) == ()
    assert stage_of(host) == "quarantined"


def test_trace_quarantines_at_once(cut: Host) -> None:
    cut.crash_trace = "/sys/fs/pstore/dmesg-efi-1 is from after it was applied"
    assert start(cut) == ()
    assert cut.last_event().detail.endswith(f", and {cut.crash_trace}")


def test_chance_that_cannot_be_counted_is_none(cut: Host) -> None:
    (cut.root / "guard.json").unlink(missing_ok=True)
    (cut.root / "guard.json").mkdir()
    assert start(cut) == ()
    assert "one more boot with it cannot be counted" in cut.last_event().detail


def test_killed_daemon_is_no_crash(host: Host) -> None:
    host.stage()
    host.apply()
    assert start(host) == ()
    assert stage_of(host) == "applied"


def test_no_soak_time(host: Host) -> None:
    host.settings = replace(host.settings, soak_time=0)
    host.engine = host.new_engine()
    host.engine.reconcile()
    host.stage()
    host.apply()
    host.reboot(clean=False)
    assert start(host) == (KID,)


def test_quarantine_holds_until_it_is_released(host: Host) -> None:
    host.stage()
    host.apply()
    host.reboot(clean=False)
    start(host)
    with pytest.raises(QuarantinedError, match=f"find out why, then `ksplice release {KID}`"):
        host.apply()
    assert host.stage().stage is Stage.QUARANTINED
    for clean in (True, False):
        host.reboot(clean=clean)
        assert start(host) == ()
        assert stage_of(host) == "quarantined"
    assert host.stages().count("quarantined") == 1
    assert host.kernel.leftovers() == []
    assert host.engine.release(KID, ALICE).stage is Stage.STAGED
    assert host.last_event().actor == ALICE
    assert start(host) == ()
    assert host.apply().stage is Stage.APPLIED


def test_only_a_quarantined_update_can_be_released(host: Host) -> None:
    host.stage()
    with pytest.raises(NotQuarantinedError, match=f"^{KID}: is staged, not quarantined$"):
        host.engine.release(KID, ALICE)
    with pytest.raises(NoSuchUpdateError, match=OTHER_KID):
        host.engine.release(OTHER_KID, ALICE)


def test_quarantined_update_can_be_removed(host: Host) -> None:
    host.stage()
    host.apply()
    host.reboot(clean=False)
    start(host)
    host.engine.remove(KID, ALICE)
    assert host.engine.list_updates() == []
    host.stage()  # somebody drops it again
    with pytest.raises(ReplayedError, match="was quarantined here and is not applied again auto"):
        host.engine.staging.check_not_undone(KID)
    assert host.apply().stage is Stage.APPLIED
    host.engine.staging.check_not_undone(KID)


def test_what_marks_the_end_may_be_restarted(host: Host) -> None:
    """As in an upgrade of the package: the boot goes on, and may crash later."""
    host.stage()
    host.apply()
    host.engine.soak.mark_clean()
    assert start(host) == ()
    host.reboot(clean=False)
    start(host)
    assert stage_of(host) == "quarantined"


def test_machine_went_down_while_an_apply_was_turned_around(host: Host) -> None:
    host.stage()
    host.engine.cancel(host.engine.start_apply(KID, ALICE), "code_busy")
    host.reboot(clean=False)
    start(host)
    assert stage_of(host) == "quarantined"


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"schema": 2, "clean": [], "soaked": []}'])
def test_damaged_file_holds_back(host: Host, damage: bytes) -> None:
    host.stage()
    host.apply()
    host.engine.soak.mark_clean()
    (host.root / "guard.json").write_bytes(damage)
    host.kernel.reboot()
    assert start(host) == ()
    assert stage_of(host) == "quarantined"


def test_watch_tells_when_the_next_one_is_due(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "guard.json")
    boot = "0" * 32
    assert guard.watch([], boot, 0, 600) == float("inf")
    assert guard.watch(["aaaaaaaa"], boot, 100, 600) == 600
    assert guard.watch(["aaaaaaaa", "bbbbbbbb"], boot, 150, 600) == 550
    assert guard.watch(["aaaaaaaa", "bbbbbbbb"], boot, 700, 600) == 50
    assert guard.read().soaked == {"aaaaaaaa": boot}
    assert guard.watch(["aaaaaaaa", "bbbbbbbb"], boot, 750, 600) == float("inf")
    guard.forget("bbbbbbbb")
    assert guard.read().soaked == {"aaaaaaaa": boot}
    assert guard.watch(["aaaaaaaa", "bbbbbbbb"], boot, 750, 600) == 600


def test_ripe_is_ripe_also_when_it_cannot_be_written(tmp_path: Path) -> None:
    """And it is written at the next occasion, whatever is applied then."""
    path = tmp_path / "g"
    guard = Guard(path)
    guard.watch({KID}, "1" * 32, 0, 600)
    path.mkdir()
    with pytest.raises(StoreError, match="Is a directory"):
        guard.watch({KID}, "1" * 32, 600, 600)
    assert guard.read().soaked == {KID: "1" * 32}
    path.rmdir()
    guard.watch(set(), "1" * 32, 601, 600)
    assert Guard(path).read().soaked == {KID: "1" * 32}


def test_only_boots_that_matter_are_kept(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "guard.json")
    boots = [f"{i:032x}" for i in range(100)]
    for boot in boots:
        guard.mark_clean(boot, [boots[0]])
    assert guard.read().clean == {boots[0], boots[-1]}


@given(knowns)
def test_round_trip(known: Known) -> None:
    assert read_known(write_known(known)) == known


@given(st.binary() | st.recursive(st.none(), st.lists).map(lambda v: str(v).encode()))
def test_any_file_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(StoreError):
        read_known(data)


def test_huge_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b" " * ((1 << 20) + 1))
    assert Guard(tmp_path / "g").read() == Known()


@given(st.sampled_from(Stage), st.sampled_from(["", "code_busy"]), knowns, st.integers(0, 600))
def test_clean_boot_never_quarantines(
    stage: Stage, cause: str, known: Known, soak_time: int
) -> None:
    event = Event(time=1, boot_id="1" * 32, kid=KID, stage=stage, cause=cause)
    clean = replace(known, clean=known.clean | {event.boot_id})
    assert why_quarantined(event, clean, soak_time) == ""


def test_file_of_a_released_version() -> None:
    data = (Path(__file__).parent / "data/guard-0.1.0.json").read_bytes()
    known = Known(clean=frozenset({f"{1:032x}"}), soaked={KID: f"{2:032x}"})
    assert read_known(data) == known
    assert write_known(known) == data
