# SPDX-License-Identifier: GPL-2.0-only
"""Transitions that do not end, and those that somebody else ends."""

from dataclasses import replace

import pytest

from ksplicd.config import Settings
from ksplicd.errors import (
    AlreadyReversedError,
    InUseError,
    ModulePresentError,
)
from ksplicd.host.stages import Conflict
from ksplicd.model import Stage
from tests.support.bundles.samples import KID
from tests.support.host.host import ALICE, CORE, NEW, Host

CAT = Conflict(pid=812, command="cat", stack="do_fcntl < __x64_sys_fcntl")
HELD_UP = "held up by 1 task"


@pytest.mark.parametrize(
    ("stack", "function"),
    [
        ("msleep < pipe_fsync.ksplice < do_fsync", "pipe_fsync"),  # by an anchor
        ("schedule < do_fcntl.cold < __x64_sys_fcntl", "do_fcntl"),
        ("schedule < do_fcntl < __x64_sys_fcntl", "do_fcntl"),
        ("schedule < do_fsync", ""),
    ],
)
def test_who_holds_it_up_is_in_a_function_with_a_name(
    host: Host, stack: str, function: str
) -> None:
    """Livepatch lists functions that it does not redirect under an anchor of the core."""
    host.stage()
    transition = host.engine.start_apply(KID, ALICE)
    host.kernel.functions[NEW] = frozenset(
        {("vmlinux", "do_fcntl", 1), (CORE, "ksplice_anchor_12_pipe_fsync", 1)}
    )
    host.kernel.holders = [Conflict(pid=812, command="cat", stack=stack)]
    assert [found.function for found in host.engine.conflicts(transition)] == [function]


def test_apply_is_held_up_and_cancelled(host: Host) -> None:
    host.stage()
    host.kernel.holders = [CAT]
    transition = host.engine.start_apply(KID, ALICE)
    assert host.engine.conflicts(transition) == [CAT]
    cancelled = host.engine.cancel(transition, "code_busy")
    assert cancelled.cancelled == "code_busy"
    assert host.engine.cancel(cancelled, "cancelled") is cancelled
    assert host.engine.get_update(KID).stage is Stage.REVERSING
    assert not host.engine.is_finished(cancelled)
    host.kernel.complete()
    info = host.engine.finish(cancelled)
    assert (info.stage, info.abort_cause) == (Stage.FAILED, "code_busy")
    assert HELD_UP in info.detail
    assert host.kernel.leftovers() == []
    assert host.engine.conflicts(cancelled) == []
    assert host.apply().stage is Stage.APPLIED


def test_undo_is_held_up_and_cancelled(host: Host) -> None:
    host.stage()
    host.apply()
    host.kernel.holders = [CAT]
    transition = host.engine.start_undo(KID, ALICE)
    cancelled = host.engine.cancel(transition, "code_busy")
    host.kernel.complete()
    info = host.engine.finish(cancelled)
    assert (info.stage, info.abort_cause) == (Stage.APPLIED, "code_busy")
    assert HELD_UP in info.detail
    assert host.undo().stage is Stage.REVERSED


def test_function_that_is_stayed_in_is_named(host: Host) -> None:
    host.engine.doors.settings = Settings(signal_after=5, ask_early=False)
    host.stage()
    host.apply()
    assert f"load ksplice_{KID}_new ask_early=0 signal_after=5" in host.kernel.calls
    host.kernel.functions[f"ksplice_{KID}_new"] = frozenset({("vmlinux", "do_fcntl", 1)})
    stack = "fcntl_setlk < do_fcntl.ksplice < __x64_sys_fcntl"
    host.kernel.holders = [replace(CAT, stack=stack), replace(CAT, pid=813, stack="schedule")]
    transition = host.engine.start_undo(KID, ALICE)
    assert [c.function for c in host.engine.conflicts(transition)] == ["do_fcntl", ""]
    cancelled = host.engine.cancel(transition, "code_busy")
    host.kernel.complete()
    detail = host.engine.finish(cancelled).detail
    assert "held up by 2 tasks in do_fcntl, which the journal names" in detail
    assert "cat" not in detail
    assert "fcntl_setlk" not in detail


def test_code_that_may_be_pointed_to_stays_after_undo(host: Host) -> None:
    host.kernel.keeps_code = True
    host.stage()
    host.apply()
    info = host.undo()
    assert info.stage is Stage.REVERSED
    assert f"{NEW}: stays loaded until the next boot" in info.detail
    assert host.kernel.leftovers() == [CORE, NEW]
    with pytest.raises(ModulePresentError, match="apply this update after the next boot"):
        host.apply()
    assert host.engine.get_update(KID).stage is Stage.REVERSED
    host.kernel.reboot()
    assert host.apply().stage is Stage.APPLIED


def test_undone_where_no_module_can_be_unloaded(host: Host) -> None:
    """The fix is out, its modules stay; nothing can be applied before the next boot."""
    host.stage()
    host.apply()
    host.kernel.are_modules_disabled = True
    info = host.undo()
    assert info.stage is Stage.REVERSED
    assert f"{NEW}: stays loaded until the next boot" in info.detail
    with pytest.raises(ModulePresentError, match="modules_disabled is 1; apply"):
        host.apply()
    assert host.engine.get_update(KID).stage is Stage.REVERSED
    host.kernel.are_modules_disabled = False
    host.kernel.reboot()
    assert host.apply().stage is Stage.APPLIED


def test_applied_again_after_somebody_else_undid_it(host: Host) -> None:
    """Undo says that it is not applied, and ends the want; its modules are still ours."""
    host.stage()
    host.apply()
    host.kernel.set_enabled(NEW, enabled=False)
    host.kernel.complete()
    with pytest.raises(AlreadyReversedError, match="not wanted any more"):
        host.engine.start_undo(KID, ALICE)
    assert host.apply().stage is Stage.APPLIED


def test_cancel_comes_too_late(host: Host) -> None:
    host.stage()
    transition = host.engine.start_apply(KID, ALICE)
    host.kernel.complete()
    assert host.engine.cancel(transition, "cancelled") is transition
    assert host.engine.finish(transition).stage is Stage.APPLIED


def test_somebody_else_turns_it_around(host: Host) -> None:
    host.stage()
    transition = host.engine.start_apply(KID, ALICE)
    host.kernel.set_enabled(NEW, enabled=False)
    host.kernel.complete()
    info = host.engine.finish(transition)
    assert info.stage is Stage.REVERSED
    assert "turned around by somebody else" in info.detail
    assert host.kernel.leftovers() == []


def test_the_kernels_truth_is_shown(host: Host) -> None:
    host.stage()
    host.apply()
    host.kernel.set_enabled(NEW, enabled=False)
    assert host.engine.get_update(KID).stage is Stage.REVERSING
    with pytest.raises(InUseError, match="is reversing; one update at a time"):
        host.engine.start_undo(KID, ALICE)
    host.kernel.complete()
    info = host.engine.get_update(KID)
    assert (info.stage, info.detail) == (Stage.REVERSED, "undone by somebody else")
    assert host.apply().stage is Stage.APPLIED


def test_many_who_hold_it_up_are_no_lost_line(host: Host) -> None:
    """A machine full of tasks cannot make an event too long to be written."""
    host.stage()
    transition = host.engine.start_apply(KID, ALICE)
    stack = " < ".join(["do_fcntl"] * 16)
    host.kernel.holders = [
        Conflict(pid=pid, command="sleeper", stack=stack) for pid in range(10_000)
    ]
    host.engine.cancel(transition, "code_busy")
    event = host.last_event()
    assert (event.stage, event.cause) == (Stage.REVERSING, "code_busy")
    assert event.detail == "held up by 10000 tasks, which the journal names"
