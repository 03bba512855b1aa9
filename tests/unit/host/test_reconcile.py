# SPDX-License-Identifier: GPL-2.0-only
"""After the daemon was killed or the machine went down, a start shows what the kernel runs."""

import gzip

import pytest

from ksplicd.errors import AlreadyReversedError
from ksplicd.host.stages import Direction, Reconciliation
from ksplicd.model import Kernel, Stage
from tests.support.bundles import samples
from tests.support.bundles.samples import KID, OTHER_KID
from tests.support.host.host import ALICE, NEW, Host
from tests.support.host.simulator import Killed


def restart(host: Host) -> Reconciliation:
    host.kernel.kill = None
    host.engine = host.new_engine()
    return host.engine.reconcile()


def stage_of(host: Host) -> tuple[str, str]:
    info = host.engine.get_update(KID)
    return info.stage.value, info.abort_cause


def test_nothing_happened(host: Host) -> None:
    host.stage()
    assert restart(host) == Reconciliation()
    assert stage_of(host) == ("staged", "")
    assert host.stages() == ["staged"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_killed_while_applying(host: Host, call: int, when: str) -> None:
    host.stage()
    host.kernel.kill = (call, when)
    with pytest.raises(Killed, match="SIGKILL"):
        host.engine.start_apply(KID, ALICE)
    found = restart(host)
    if (call, when) == (3, "after"):  # the new code is in: it goes on
        (transition,) = found.transitions
        assert (transition.direction, transition.cancelled) == (Direction.APPLY, "")
        assert transition.actor == ALICE
        assert stage_of(host) == ("transitioning", "")
        host.kernel.complete()
        assert host.engine.finish(transition).stage is Stage.APPLIED
        return
    assert found == Reconciliation()
    assert host.kernel.leftovers() == []
    assert stage_of(host) == ("failed", "unexpected")
    assert host.last_event().detail == "ksplicd was stopped while it was being applied"
    assert host.apply().stage is Stage.APPLIED


@pytest.mark.parametrize("now", ["ended", "running"])
def test_killed_during_the_transition(host: Host, now: str) -> None:
    host.stage()
    host.engine.start_apply(KID, ALICE)
    if now == "ended":
        host.kernel.complete()
    found = restart(host)
    if now == "running":
        (transition,) = found.transitions
        host.kernel.complete()
        host.engine.finish(transition)
    assert stage_of(host) == ("applied", "")
    assert host.stages()[-2:] == ["transitioning", "applied"]
    assert restart(host) == Reconciliation()
    assert host.stages()[-2:] == ["transitioning", "applied"]
    assert host.undo().stage is Stage.REVERSED


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", [5, 6, 7])
def test_killed_while_undoing(host: Host, call: int, when: str) -> None:
    host.stage()
    host.apply()
    host.kernel.kill = (call, when)
    with pytest.raises(Killed, match="SIGKILL"):
        host.undo()
    found = restart(host)
    if (call, when) == (5, "before"):
        assert found == Reconciliation()
        assert stage_of(host) == ("applied", "")
        return
    if (call, when) == (5, "after"):
        (transition,) = found.transitions
        assert (transition.direction, transition.cancelled) == (Direction.UNDO, "")
        assert stage_of(host) == ("reversing", "")
        host.kernel.complete()
        host.engine.finish(transition)
    assert stage_of(host) == ("reversed", "")
    assert host.kernel.leftovers() == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", [4, 5, 6, 7])
def test_killed_while_a_cancelled_apply_comes_back(host: Host, call: int, when: str) -> None:
    host.stage()
    transition = host.engine.start_apply(KID, ALICE)
    host.kernel.kill = (call, when)
    with pytest.raises(Killed, match="SIGKILL"):  # noqa: PT012
        cancelled = host.engine.cancel(transition, "code_busy")
        host.kernel.complete()
        host.engine.finish(cancelled)
    found = restart(host)
    if call == 4:
        (transition,) = found.transitions
        assert transition.direction is Direction.APPLY
        # what was never written down can not be known; that it was turned around can be seen
        assert transition.cancelled == {"before": "", "after": "cancelled"}[when]
        host.kernel.complete()
        host.engine.finish(transition)
        expected = {"before": ("applied", ""), "after": ("failed", "cancelled")}[when]
        assert stage_of(host) == expected
        return
    assert stage_of(host) == ("failed", "code_busy")
    assert host.kernel.leftovers() == []


def test_killed_while_a_cancelled_undo_comes_back(host: Host) -> None:
    host.stage()
    host.apply()
    host.engine.cancel(host.engine.start_undo(KID, ALICE), "code_busy")
    (transition,) = restart(host).transitions
    assert (transition.direction, transition.cancelled) == (Direction.UNDO, "code_busy")
    host.kernel.complete()
    assert host.engine.finish(transition).stage is Stage.APPLIED
    assert stage_of(host) == ("applied", "code_busy")


def test_reboot_while_applied(host: Host) -> None:
    host.stage()
    host.stage(samples.bundle(OTHER_KID))
    host.apply(OTHER_KID)
    host.clock.now += 60
    host.apply(KID)
    host.reboot()
    assert restart(host).reapply == (OTHER_KID, KID)
    assert stage_of(host) == ("staged", "")
    host.apply(KID)
    assert restart(host).reapply == (OTHER_KID,)
    assert stage_of(host) == ("applied", "")


def test_undo_of_what_waits_for_a_boot_ends_that(host: Host) -> None:
    host.stage()
    host.apply()
    host.reboot()
    assert restart(host).reapply == (KID,)
    with pytest.raises(
        AlreadyReversedError, match="it is not wanted any more, and is not applied again"
    ):
        host.engine.start_undo(KID, ALICE)
    assert (host.last_event().stage, host.last_event().actor) == (Stage.REVERSED, ALICE)
    assert restart(host).reapply == ()


def test_reboot_into_another_kernel(host: Host) -> None:
    host.stage()
    host.apply()
    host.reboot()
    here = host.kernel.kernel
    host.kernel.kernel = Kernel(release="6.1.0-51-amd64", build_id="00" * 20)
    found = restart(host)
    why = f"waits: {KID}: is for kernel {here.release}, but 6.1.0-51-amd64 runs here"
    assert found == Reconciliation(waiting={KID: why})
    assert stage_of(host) == ("staged", "")
    assert host.engine.get_update(KID).detail == f"applied until the machine went down; {why}"
    host.reboot()
    host.kernel.kernel = here
    assert restart(host).reapply == (KID,)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_machine_went_down_while_applying(host: Host, call: int) -> None:
    host.stage()
    host.kernel.kill = (call, "after")
    with pytest.raises(Killed, match="SIGKILL"):
        host.engine.start_apply(KID, ALICE)
    host.kernel.reboot()
    assert restart(host) == Reconciliation()
    assert stage_of(host) == ("quarantined", "quarantined")
    detail = host.last_event().detail
    assert detail.startswith("the machine went down while it was being applied, and /var/crash")


def test_machine_went_down_while_undoing(host: Host) -> None:
    host.stage()
    host.apply()
    host.engine.start_undo(KID, ALICE)
    host.kernel.reboot()
    assert restart(host) == Reconciliation()
    assert stage_of(host) == ("reversed", "")


def test_lost_history(host: Host) -> None:
    host.stage()
    host.apply()
    (host.root / "history.jsonl").unlink()
    restart(host)
    assert stage_of(host) == ("applied", "")
    assert host.engine.get_update(KID).detail == "found applied in the kernel"
    assert host.undo().stage is Stage.REVERSED


def test_lost_bundle(host: Host) -> None:
    host.stage()
    host.apply()
    host.engine.doors.store.take_out(KID)
    restart(host)
    info = host.engine.get_update(KID)
    assert info.stage is Stage.APPLIED
    assert info.manifest.description.startswith("(its bundle is not stored here")
    assert host.stage().stage is Stage.APPLIED
    assert host.undo().stage is Stage.REVERSED


def test_damaged_update_does_not_keep_the_others_from_us(host: Host) -> None:
    """A crash of a disk that ignores fsync may leave the folder without its file."""
    host.stage()
    next((host.root / "updates" / KID).glob("*.tar.gz")).unlink()
    restart(host)
    info = host.engine.get_update(KID)
    assert info.stage is Stage.REJECTED
    assert "No such file or directory" in info.detail
    host.engine.remove(KID, ALICE)
    assert host.stage().stage is Stage.STAGED


def test_modules_of_somebody_else_are_left_alone(host: Host) -> None:
    host.stage()
    host.kernel.insert(f"ksplice_{KID}")
    restart(host)
    assert host.kernel.leftovers() == [f"ksplice_{KID}"]


def test_undone_while_the_daemon_did_not_run(host: Host) -> None:
    host.stage()
    host.apply()
    host.kernel.set_enabled(NEW, enabled=False)
    host.kernel.complete()
    restart(host)
    assert stage_of(host) == ("reversed", "")
    assert host.kernel.leftovers() == []
    assert host.stages()[-1] == "reversed"


def test_last_word_is_found_in_an_older_file(host: Host) -> None:
    host.stage()
    host.stage(samples.bundle(OTHER_KID))
    host.apply(OTHER_KID)
    path = host.root / "history.jsonl"
    for number in (1, 2, 3):
        path.rename(host.root / f"history.jsonl.{number:06}")
        host.apply(KID)
        host.undo(KID)
    host.reboot()
    assert restart(host).reapply == (OTHER_KID,)
    assert host.last_event().kid == KID
    assert len(host.stages()) == 6 + 3 * 6


@pytest.mark.parametrize(
    "damage", [b"no gzip", gzip.compress(b"{}", mtime=0)[:-5]], ids=["no gzip", "cut"]
)
def test_nothing_comes_back_that_a_damaged_history_may_have_undone(
    host: Host, damage: bytes
) -> None:
    host.stage()
    host.apply()
    full = host.root / "history.jsonl.000001.gz"
    full.write_bytes(damage)
    host.reboot()
    found = host.new_engine().reconcile()
    assert found.reapply == ()
    assert "it may have been undone: part of the history cannot be read" in found.waiting[KID]
    assert str(full.with_suffix("")) in found.waiting[KID]
    full.unlink()
    assert host.new_engine().reconcile().reapply == (KID,)
