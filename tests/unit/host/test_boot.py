# SPDX-License-Identifier: GPL-2.0-only
"""Updates are applied again at boot, in order, or are reported with the reason why they wait."""

from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd.errors import (
    CodeBusyError,
    KspliceError,
    OutOfMemoryError,
    StoreError,
    UnexpectedError,
)
from ksplicd.host.boot import apply_again, why_disabled
from ksplicd.host.stages import BOOT
from ksplicd.model import Kernel
from tests.support.bundles import samples
from tests.support.bundles.samples import KID, OTHER_KID
from tests.support.host.host import Host
from tests.support.host.simulator import NO_MATCH


def boot(host: Host, disabled: str = "", *, willing: bool = True) -> tuple[list[str], list[str]]:
    """Return the kids that are applied again, and what was reported of the others."""
    told: list[str] = []
    host.engine = host.new_engine()

    def sleep(seconds: float) -> None:
        host.clock.now += seconds
        cancelled = host.last_event().cause
        if willing or cancelled:
            host.kernel.complete()

    return apply_again(host.engine, lambda kid, why: told.append(why), disabled, sleep), told


@pytest.fixture
def two(host: Host) -> Host:
    """A host that was shut down with two updates applied, the second one first."""
    host.stage()
    host.stage(samples.bundle(OTHER_KID))
    host.apply(OTHER_KID)
    host.clock.now -= 3600  # somebody set the clock; the order stays
    host.apply(KID)
    host.reboot()
    return host


def test_in_the_order_of_application(two: Host) -> None:
    for _ in range(2):
        assert boot(two) == ([OTHER_KID, KID], [])
        events = list(two.engine.records.events())[:4]
        assert {event.actor for event in events} == {BOOT}
        two.reboot()


def test_one_that_does_not_match_keeps_no_other_from_it(two: Host) -> None:
    two.kernel.mismatches["vmlinux"] = ("no_match", NO_MATCH)
    applied, told = boot(two)
    assert applied == []
    assert len(told) == 2
    assert "do_fcntl+0x1c" in told[0]
    assert two.kernel.leftovers() == []


def test_what_failed_for_now_is_to_be_tried_again(host: Host) -> None:
    """And after it the updates that depend on it, in order; nothing else."""
    host.stage()
    host.stage(samples.bundle(OTHER_KID, depends=(KID,)))
    host.apply(KID)
    host.apply(OTHER_KID)
    host.reboot()
    host.kernel.start_foreign_transition("kpatch_x")
    applied, told = boot(host, willing=False)
    assert applied == []
    assert "another transition runs" in told[0]
    assert "depends on update" in told[1]
    assert host.engine.due() == [(KID, BOOT), (OTHER_KID, BOOT)]
    host.kernel.complete()
    for kid in (KID, OTHER_KID):
        host.apply(kid)
    assert host.engine.due() == []


def test_what_was_put_off_comes_back_at_the_next_boot(two: Host) -> None:
    two.kernel.start_foreign_transition("kpatch_x")
    assert boot(two, willing=False)[0] == []
    two.reboot()
    assert boot(two) == ([OTHER_KID, KID], [])


@pytest.mark.parametrize(
    "error",
    [
        UnexpectedError("memfd: Too many open files"),
        OutOfMemoryError("no memory"),
        StoreError("history.jsonl: Input/output error"),
        CodeBusyError("busy"),
    ],
)
def test_a_fault_at_one_boot_costs_no_later_boot_the_update(two: Host, error: KspliceError) -> None:
    two.kernel.fault = (len(two.kernel.calls) + 1, error)
    two.kernel._steps = len(two.kernel.calls)
    applied, told = boot(two)
    assert (applied, told) == ([KID], [str(error)])
    assert str(error) in two.engine.missing()[OTHER_KID]
    assert two.engine.due() == [(OTHER_KID, BOOT)]
    assert two.engine.get_update(OTHER_KID).is_wanted
    two.reboot()
    assert boot(two) == ([OTHER_KID, KID], [])
    assert two.engine.missing() == {}


def test_one_whose_bundle_is_gone_waits(two: Host) -> None:
    next((two.root / "updates" / OTHER_KID).glob("*.tar.gz")).unlink()
    applied, told = boot(two)
    assert applied == [KID]
    assert len(told) == 1
    assert "No such file or directory" in told[0]


def test_one_whose_key_is_gone_waits(two: Host) -> None:
    (two.keys / "test.pub").unlink()
    applied, told = boot(two)
    assert applied == []
    assert len(told) == 2


def test_another_kernel(two: Host) -> None:
    two.kernel.kernel = replace(two.kernel.kernel, build_id="00" * 20)
    applied, told = boot(two)
    assert applied == []
    assert len(told) == 2
    assert all("is for another build of" in why for why in told)
    two.reboot()
    two.kernel.kernel = Kernel(release=samples.KERNEL.release, build_id=samples.KERNEL.build_id)
    assert boot(two) == ([OTHER_KID, KID], [])


def test_disabled(two: Host) -> None:
    applied, told = boot(two, "there is a file /etc/ksplicd/disable")
    assert applied == []
    assert told[0] == (
        f"there is a file /etc/ksplicd/disable; `ksplice apply {OTHER_KID}` applies it by hand"
    )
    two.reboot()
    assert boot(two) == ([OTHER_KID, KID], [])


def test_policy(two: Host) -> None:
    two.settings = replace(two.settings, apply_at_boot=False)
    applied, told = boot(two)
    assert applied == []
    assert told[0].startswith("apply-at-boot = no in ksplicd.conf")


def test_transition_that_does_not_end_is_turned_around(two: Host) -> None:
    two.settings = replace(two.settings, transition_limit=5)
    assert boot(two, willing=False) == ([], [])
    assert two.stages().count("failed") == 2
    assert two.last_event().cause == "code_busy"
    assert two.kernel.leftovers() == []


def test_boot_has_a_time_for_all_of_it(host: Host) -> None:
    """Each of many may be held up for the transition limit; the machine must come up."""
    kids = [f"many{n:04}" for n in range(50)]
    for kid in kids:
        host.stage(samples.bundle(kid))
        host.apply(kid)
    host.reboot()
    begun = host.clock.monotonic()
    told: list[str] = []
    host.engine = host.new_engine()

    def sleep(_seconds: float) -> None:
        host.clock.now += 1
        livepatch = host.kernel.livepatch(f"ksplice_{kids[0]}_new")
        if livepatch is not None and not livepatch.enabled:  # it is being turned around
            host.kernel.complete()

    applied = apply_again(host.engine, lambda kid, why: told.append(why), "", sleep)
    assert host.clock.monotonic() - begun <= 121
    assert applied == []
    assert told[0] == f"{kids[1]}: still in transition; the service sees it through"
    assert {*told[1:]} == {"the boot's 120 s are over; the service applies it"}
    assert len(host.engine.due()) == 49
    host.engine = host.new_engine()  # the daemon starts
    found = host.engine.reconcile()
    assert [transition.kid for transition in found.transitions] == [kids[1]]
    assert [kid for kid, _ in host.engine.due()] == [kids[0], *kids[2:]]


def test_one_that_was_on_its_way_and_cannot_be_turned_around(two: Host) -> None:
    """Whatever its outcome, the others get their turn, or are reported as waiting."""
    two.engine = two.new_engine()
    two.engine.reconcile(BOOT)
    two.engine.start_apply(OTHER_KID, BOOT)  # and then we are killed
    error = UnexpectedError("enabled: Input/output error")
    two.kernel.fault = (len(two.kernel.calls) + 2, error)  # behind the unload of old code
    two.kernel._steps = len(two.kernel.calls)
    applied, told = boot(two, willing=False)
    assert applied == []
    assert told[0] == "enabled: Input/output error"
    assert "one update at a time" in told[1]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("ro quiet ksplicd.disable", "ksplicd.disable is on the kernel's command line"),
        ("ksplicd.disable=1", "ksplicd.disable is on the kernel's command line"),
        ("ro ksplicd.disabled noksplicd.disable ksplicd.disable=0", ""),
        ("", ""),
    ],
)
def test_kernel_argument(tmp_path: Path, line: str, why: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text(f"{line}\n")
    assert why_disabled(tmp_path) == why


def test_file(tmp_path: Path) -> None:
    assert why_disabled(tmp_path) == ""
    (tmp_path / "etc/ksplicd").mkdir(parents=True)
    (tmp_path / "etc/ksplicd/disable").touch()
    assert why_disabled(tmp_path) == "there is a file /etc/ksplicd/disable"
