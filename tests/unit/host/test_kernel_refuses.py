# SPDX-License-Identifier: GPL-2.0-only
"""An apply or undo that the kernel refuses, at each step."""

import resource

import pytest

from ksplicd.errors import (
    BadSystemMapError,
    FailedToFindError,
    InUseError,
    KspliceError,
    ModuleRefusedError,
    NoMatchError,
    OutOfMemoryError,
    ReplayedError,
    StoreError,
    UnexpectedError,
)
from ksplicd.model import Stage
from tests.support.bundles import samples
from tests.support.bundles.samples import KID
from tests.support.host.host import ALICE, CORE, Host
from tests.support.host.simulator import NO_MATCH


@pytest.mark.parametrize(
    ("cause", "line", "error", "message"),
    [
        (
            *("no_match", NO_MATCH, NoMatchError),
            r"vmlinux: do_fcntl\+0x1c: expected 0f1f4400, found 90909090 \(bytes\): .*; build it f",
        ),
        (
            "no_match",
            "target=vmlinux function=f offset=0x0 kind=fentry expected= found=",
            NoMatchError,
            r"vmlinux: f\+0x0: expected other code, found nothing \(fentry\): a tracer, a kprobe",
        ),
        (
            *("failed_to_find", "target=vmlinux symbol=foo kind=missing", FailedToFindError),
            "vmlinux: foo: missing: this kernel has no such symbol",
        ),
        (
            *("bad_system_map", "target=vmlinux symbol=foo kind=ambiguous", BadSystemMapError),
            "vmlinux: foo: ambiguous: this kernel has more symbols",
        ),
        ("out_of_memory", "", OutOfMemoryError, "the kernel has no memory for the update"),
        ("unexpected", "", UnexpectedError, "the kernel part failed; see dmesg"),
        ("something_new", "", UnexpectedError, "something_new; see dmesg"),
    ],
)
def test_no_match(
    host: Host, cause: str, line: str, error: type[KspliceError], message: str
) -> None:
    host.stage()
    host.kernel.mismatches["vmlinux"] = (cause, line)
    with pytest.raises(error, match=message):
        host.engine.start_apply(KID, ALICE)
    info = host.engine.get_update(KID)
    assert (info.stage, info.abort_cause) == (Stage.FAILED, error.abort_cause)
    assert host.kernel.leftovers() == []
    assert host.stages() == ["staged", "loading", "failed"]
    host.kernel.mismatches.clear()
    assert host.apply().stage is Stage.APPLIED


def test_mismatch_is_recorded_in_parts(host: Host) -> None:
    host.stage()
    host.kernel.mismatches["vmlinux"] = ("no_match", NO_MATCH)
    with pytest.raises(NoMatchError, match="do_fcntl"):
        host.engine.start_apply(KID, ALICE)
    assert host.last_event().mismatch == {
        "target": "vmlinux",
        "function": "do_fcntl",
        "offset": "0x1c",
        "kind": "bytes",
        "expected": "0f1f4400",
        "found": "90909090",
    }


def test_one_of_two_targets_does_not_match(host: Host) -> None:
    host.kernel.insert("loop")
    host.stage(samples.bundle(targets=("vmlinux", "loop")))
    host.kernel.mismatches["loop"] = ("no_match", NO_MATCH.replace("vmlinux", "loop"))
    with pytest.raises(NoMatchError, match="loop: do_fcntl"):
        host.engine.start_apply(KID, ALICE)
    assert host.kernel.leftovers() == []


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("error", [ModuleRefusedError, OutOfMemoryError, InUseError])
def test_fault_at_every_call_of_apply(host: Host, call: int, error: type[KspliceError]) -> None:
    host.stage()
    host.kernel.fault = (call, error("not now"))
    with pytest.raises(error, match="not now"):
        host.engine.start_apply(KID, ALICE)
    assert host.kernel.leftovers() == []
    info = host.engine.get_update(KID)
    assert info.stage is Stage.FAILED
    assert info.abort_cause == (error.abort_cause or "in_use")
    host.kernel.fault = None
    assert host.apply().stage is Stage.APPLIED


def test_fault_of_ours_leaves_nothing_loaded_either(host: Host) -> None:
    host.stage()
    host.kernel.mismatches["vmlinux"] = ("no_match", NO_MATCH)
    host.kernel.fault = (3, InUseError("the core is in use"))
    with pytest.raises(NoMatchError, match="do_fcntl"):
        host.engine.start_apply(KID, ALICE)
    assert host.kernel.leftovers() == [CORE]
    assert "the core is in use" in host.engine.get_update(KID).detail
    host.kernel.fault = None
    host.kernel.mismatches.clear()
    assert host.apply().stage is Stage.APPLIED


def test_core_that_talks_nonsense(host: Host) -> None:
    host.stage()
    host.kernel.core_error = UnexpectedError("matched: unexpected line")
    with pytest.raises(UnexpectedError, match="unexpected line"):
        host.engine.start_apply(KID, ALICE)
    assert host.kernel.leftovers() == []


def test_a_transition_of_somebody_else_runs(host: Host) -> None:
    host.stage()
    host.kernel.start_foreign_transition("kpatch_1")
    with pytest.raises(InUseError, match=r"another transition runs \(that of kpatch_1\)"):
        host.engine.start_apply(KID, ALICE)
    assert host.engine.get_update(KID).abort_cause == "in_use"
    assert host.kernel.leftovers() == []


@pytest.mark.parametrize("call", [1, 2, 3])
def test_fault_at_every_call_of_undo(host: Host, call: int) -> None:
    host.stage()
    host.apply()
    host.kernel.fault = (4 + call, InUseError("not now"))
    if call == 1:
        with pytest.raises(InUseError, match="not now"):
            host.engine.start_undo(KID, ALICE)
        assert host.engine.get_update(KID).stage is Stage.APPLIED
    else:
        info = host.undo()
        assert info.stage is Stage.REVERSED
        assert "not now" in info.detail
    host.kernel.fault = None
    if call == 1:
        assert host.undo().stage is Stage.REVERSED
    assert host.apply().stage is Stage.APPLIED


def test_full_disk_hides_no_undo(host: Host) -> None:
    """An undone update is not applied automatically, even if the undo could not be written."""
    host.stage()
    host.apply()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # a new file has no room either
    try:
        with pytest.raises(StoreError, match=r"history\.jsonl: File too large"):
            host.undo()
        for _ in range(2):
            with pytest.raises(ReplayedError, match="was undone here"):
                host.engine.staging.check_not_undone(KID)
            host.engine.reconcile()
        assert host.stages()[-2:] == ["reversing", "reversed"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk_before_anything_is_loaded(host: Host) -> None:
    host.stage()
    history = host.root / "history.jsonl"
    history.unlink()
    history.mkdir()
    with pytest.raises(StoreError, match=r"history\.jsonl: Is a directory"):
        host.engine.start_apply(KID, ALICE)
    assert host.kernel.calls == []
    history.rmdir()
    assert host.apply().stage is Stage.APPLIED
