# SPDX-License-Identifier: GPL-2.0-only
"""The engine's records of the kernel's complaints."""

import json

import pytest

from ksplicd.config import Settings
from ksplicd.errors import KernelWarningError
from ksplicd.host.kernel.kmsg import Complaint
from ksplicd.host.report.journal import Outcome, about_event
from ksplicd.model import Stage
from tests.support.bundles import samples
from tests.support.host.host import ALICE, Host

KID, OTHER = samples.KID, samples.OTHER_KID
CAUSE = KernelWarningError.abort_cause


def complaint(host: Host, *, age: float = 0) -> Complaint:
    return Complaint(
        time=host.clock.monotonic() - age,
        headline="WARNING: CPU: 0 PID: 1 at fs/fcntl.c:1",
        function="do_fcntl",
        module=f"ksplice_{KID}_new",
    )


@pytest.fixture
def applied(host: Host) -> Host:
    host.stage()
    host.apply()
    return host


def test_first_complaint_is_recorded(applied: Host) -> None:
    assert applied.engine.soak.record_complaint(KID, complaint(applied))
    info = applied.engine.get_update(KID)
    assert (info.stage, info.abort_cause) == (Stage.APPLIED, CAUSE)
    assert info.detail.startswith(f"the kernel's log names do_fcntl [ksplice_{KID}_new]: WARNING:")
    entry = about_event(applied.events[-1])
    assert entry is not None
    assert entry.message_id is Outcome.KERNEL_WARNING
    assert entry.fields["KSPLICE_FUNCTION"] == "do_fcntl"


def test_further_complaints_are_not(applied: Host) -> None:
    assert applied.engine.soak.record_complaint(KID, complaint(applied))
    assert not applied.engine.soak.record_complaint(KID, complaint(applied))
    applied.engine = applied.new_engine()
    applied.engine.reconcile()
    assert not applied.engine.soak.record_complaint(KID, complaint(applied))
    assert applied.stages().count("applied") == 2


def test_applied_anew_it_is_heard_anew(applied: Host) -> None:
    applied.engine.soak.record_complaint(KID, complaint(applied))
    applied.undo()
    assert not applied.engine.soak.record_complaint(KID, complaint(applied))
    applied.clock.now += 100
    applied.apply()
    assert applied.engine.get_update(KID).abort_cause == ""
    assert not applied.engine.soak.record_complaint(
        KID, complaint(applied, age=50)
    )  # of the time before
    assert applied.engine.soak.record_complaint(KID, complaint(applied))


@pytest.mark.parametrize("by", [-3600, 3600])
def test_a_clock_that_is_set_changes_nothing(applied: Host, by: float) -> None:
    """Back by an hour, as by a time server: what the kernel says from now on is about it."""
    applied.clock.wrong = by
    early = complaint(applied, age=50)
    assert not applied.engine.soak.record_complaint(KID, early)
    assert applied.engine.soak.record_complaint(KID, complaint(applied))


def test_history_without_the_time_since_the_boot(applied: Host) -> None:
    """As an older version wrote it in this boot, before the package was updated."""
    path = applied.engine.doors.store.history_file
    lines = [{**json.loads(line), "up": None} for line in path.read_text().splitlines()]
    for line in lines:
        del line["up"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    applied.engine = applied.new_engine()
    applied.engine.reconcile()
    assert not applied.engine.soak.record_complaint(KID, complaint(applied, age=50))
    assert applied.engine.soak.record_complaint(KID, complaint(applied))


def test_what_was_loaded_before_this_start_is_heard(applied: Host) -> None:
    applied.engine = applied.new_engine()
    applied.engine.reconcile()
    assert applied.engine.soak.record_complaint(KID, complaint(applied))


def test_after_its_soak_time_it_is_not_meant(applied: Host) -> None:
    applied.engine.soak.watch()
    applied.clock.now += applied.settings.soak_time
    applied.engine.soak.watch()
    assert not applied.engine.soak.record_complaint(KID, complaint(applied))


def test_without_soak_time_nothing_is_meant(applied: Host) -> None:
    applied.engine.doors.settings = Settings(soak_time=0)
    assert not applied.engine.soak.record_complaint(KID, complaint(applied))


def test_on_its_way_it_is_recorded_on_arrival(host: Host) -> None:
    host.stage()
    transition = host.engine.start_apply(KID, ALICE)
    assert host.engine.soak.record_complaint(KID, complaint(host))
    assert host.engine.get_update(KID).stage is Stage.TRANSITIONING
    host.kernel.complete()
    info = host.engine.finish(transition)
    assert (info.stage, info.abort_cause) == (Stage.APPLIED, CAUSE)


def test_turned_around_for_it(host: Host) -> None:
    host.stage()
    transition = host.engine.start_apply(KID, ALICE)
    host.engine.soak.record_complaint(KID, complaint(host))
    transition = host.engine.cancel(transition, CAUSE)
    host.kernel.complete()
    info = host.engine.finish(transition)
    assert (info.stage, info.abort_cause) == (Stage.FAILED, CAUSE)
    assert host.kernel.leftovers() == []


def test_why_an_apply_failed_says_it_too(host: Host) -> None:
    """It was turned around for another reason, but is not retried automatically."""
    host.stage()
    transition = host.engine.start_apply(KID, ALICE)
    transition = host.engine.cancel(transition, "code_busy")
    assert host.engine.soak.record_complaint(KID, complaint(host))
    host.engine.doors.settings = Settings(undo_on_warning=True)
    host.kernel.complete()
    info = host.engine.finish(transition)
    assert (info.stage, info.abort_cause) == (Stage.FAILED, CAUSE)
    assert f"the kernel's log names do_fcntl [ksplice_{KID}_new]: WARNING:" in info.detail


def test_without_the_policy_it_failed_for_its_own_reason(host: Host) -> None:
    host.stage()
    transition = host.engine.start_apply(KID, ALICE)
    transition = host.engine.cancel(transition, "code_busy")
    host.engine.soak.record_complaint(KID, complaint(host))
    host.kernel.complete()
    info = host.engine.finish(transition)
    assert info.abort_cause == "code_busy"
    assert "the kernel's log names do_fcntl" in info.detail


def test_undo_that_is_turned_around_does_not_tell_it_again(applied: Host) -> None:
    applied.engine.soak.record_complaint(KID, complaint(applied))
    for _ in range(2):
        transition = applied.engine.start_undo(KID, ALICE)
        transition = applied.engine.cancel(transition, "code_busy")
        applied.kernel.complete()
        assert applied.engine.finish(transition).abort_cause == "code_busy"
        applied.engine = applied.new_engine()
        applied.engine.reconcile()
        assert not applied.engine.soak.record_complaint(KID, complaint(applied))
    assert [event.cause for event in applied.events].count(CAUSE) == 1


def test_complaints_of_what_soaks(applied: Host) -> None:
    assert applied.engine.soak.complaints() == {}
    applied.engine.soak.record_complaint(KID, complaint(applied))
    applied.engine = applied.new_engine()
    applied.engine.reconcile()
    assert list(applied.engine.soak.complaints()) == [KID]
    assert applied.engine.soak.complaint_of(KID).startswith("the kernel's log names do_fcntl")
    applied.engine.soak.watch()
    applied.clock.now += applied.settings.soak_time
    applied.engine.soak.watch()
    assert applied.engine.soak.complaints() == {}


def test_complaint_is_of_the_code_that_was_loaded(applied: Host) -> None:
    applied.engine.soak.record_complaint(KID, complaint(applied))
    applied.undo()
    assert applied.engine.soak.complaint_of(KID) == ""
    applied.apply()
    assert applied.engine.soak.complaint_of(KID) == ""


def test_staged_update_is_not_meant(host: Host) -> None:
    host.stage()
    assert not host.engine.soak.record_complaint(KID, complaint(host))


def test_order_of_undoing(applied: Host) -> None:
    applied.stage(samples.bundle(OTHER, depends=(KID,)))
    applied.apply(OTHER)
    applied.stage(samples.bundle("third000", depends=(KID, OTHER)))
    applied.apply("third000")
    assert applied.engine.order.undo_order(KID) == ["third000", OTHER, KID]
    assert applied.engine.order.undo_order("third000") == ["third000"]


def test_undo_says_why(applied: Host) -> None:
    applied.engine.start_undo(KID, ALICE, why="undo-on-warning: WARNING: x")
    assert applied.events[-1].detail == "undo-on-warning: WARNING: x"
