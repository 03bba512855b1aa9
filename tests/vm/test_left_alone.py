# SPDX-License-Identifier: GPL-2.0-only
"""Modules that are loaded later and left unpatched by policy, while other things happen."""

from pathlib import Path

import pytest

from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.guest import Guest
from tests.support.guest.blocker import BLOCKER
from tests.support.guest.foreign import FOREIGN, REMOVE_FOREIGN, build_module
from tests.support.guest.hand import Update, is_clean
from tests.support.guest.modules import NEW, OLD, insmod, mount
from tests.support.waiting import wait_in_guest

pytestmark = pytest.mark.usefixtures("golden_log")

LEAVE = "leave_unmatched=1"


@pytest.fixture
def guest(shared_guest: Guest) -> Guest:
    return shared_guest


@pytest.fixture
def update(modules_update: Update) -> Update:
    return modules_update


def test_live_patch_that_replaces_all_frees_only_its_own(
    guest: Guest, update: Update, altered: bytes, kernel: KernelPackages, tmp_path: Path
) -> None:
    """It takes the update out without calling it, while a module is left alone."""
    guest.put("/root/foreign.ko", build_module(kernel, tmp_path, "foreign", FOREIGN))
    update.apply(late=True, policy=LEAVE)
    assert insmod(guest, altered)
    assert update.targets()["romfs"] == "unpatched"
    livepatch = f"/sys/kernel/livepatch/{update.new}"
    assert guest.run(f"cat {livepatch}/romfs/patched {livepatch}/vmlinux/patched").out == "0\n1\n"
    guest.run("insmod /root/foreign.ko replace=1")
    wait_in_guest(lambda: update.new not in guest.run("ls /sys/kernel/livepatch").out)
    update.unload(update.new)
    update.rmmod(update.core)
    assert mount(guest, "romfs") == [OLD]
    guest.run("rmmod romfs")
    guest.run(REMOVE_FOREIGN)
    assert is_clean(guest)


def test_policy_holds_while_the_update_is_undone(
    guest: Guest, update: Update, altered: bytes
) -> None:
    """A task in new code holds the undo up, which is turned around then."""
    update.apply(late=True, policy=LEAVE)
    guest.put("/root/altered.ko", altered)
    guest.put("/root/blocker.py", BLOCKER.encode())
    guest.run("systemd-run -u blocker -q /usr/bin/python3 /root/blocker.py")
    guest.run("until grep -l do_fcntl /proc/[0-9]*/stack; do sleep 0.1; done")
    livepatch = f"/sys/kernel/livepatch/{update.new}"
    # within the 15 seconds after which livepatch wakes the task
    said = guest.run(
        f"echo 0 >{livepatch}/enabled; insmod /root/altered.ko;"
        f" cat {livepatch}/transition; echo 1 >{livepatch}/enabled"
    )
    assert said.out == "1\n"
    update.wait()
    assert update.state("stage") == "applied"
    assert update.targets()["romfs"] == "unpatched"
    assert mount(guest, "romfs") == [OLD]
    guest.run("rmmod romfs")
    assert mount(guest, "romfs") == [NEW], "the module of the package is patched"
    guest.run("rmmod romfs; insmod /root/altered.ko; systemctl stop blocker")
    update.undo()
    assert mount(guest, "romfs") == [OLD]
    assert is_clean(guest)
