# SPDX-License-Identifier: GPL-2.0-only
"""Redirections beside livepatch, on the stock kernel: kprobes, exit functions, pointers."""

import re
import time
from pathlib import Path

import pytest

from ksplicd import bundle
from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from ksplicd.errors import LabError
from ksplicd.lab.guest import Guest
from ksplicd.model import Account, old_module
from tests.support.guest.blocker import BLOCKER
from tests.support.guest.foreign import FOREIGN, PROBE, build_module
from tests.support.guest.hand import (
    Edit,
    Update,
    is_clean,
    make_bundle,
    wait_for_stack,
    write_patch,
)
from tests.support.guest.maker import FIRST
from tests.support.guest.redirected import BOOL, CONNTRACK, EXIT, NO_SIZE, POINTER, SYSCTLS, VALUE
from tests.support.kernels import slice as sample
from tests.support.waiting import wait_in_guest

pytestmark = pytest.mark.usefixtures("golden_log")

SYNC = """\
import os
r, w = os.pipe()
try:
    os.fsync(w)
except OSError as e:
    print(e.strerror)
"""
OLD, NEW = "Invalid argument", "Structure needs cleaning"
EXIT_TOO = Edit(EXIT.path, EXIT.old, EXIT.new.replace("new way", "other way"))
PARAMETER = "/sys/module/printk/parameters/time"


class Builder:
    """Makes updates of the stock kernel."""

    def __init__(self, cache: Cache, kernel: KernelPackages, tree: Path, folder: Path) -> None:
        self.cache, self.kernel, self.tree, self.folder = cache, kernel, tree, folder

    def make(self, kid: str, *edits: Edit) -> bundle.Bundle:
        patch = write_patch(self.tree, self.folder / f"{kid}.patch", *edits)
        return make_bundle(self.cache, self.kernel, kid, [patch])


@pytest.fixture(scope="module")
def builder(
    lab_cache: Cache, kernel: KernelPackages, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Builder:
    return Builder(lab_cache, kernel, tree, tmp_path_factory.mktemp("redirect"))


@pytest.fixture(scope="module")
def functions(builder: Builder) -> bundle.Bundle:
    return builder.make("redir001", BOOL, EXIT)


@pytest.fixture(scope="module")
def pointers(builder: Builder) -> bundle.Bundle:
    return builder.make("redir002", POINTER)


@pytest.fixture(scope="module")
def tables(builder: Builder) -> bundle.Bundle:
    """Return an update of tables, one of which is copied."""
    return builder.make("redir006", *SYSCTLS, VALUE, CONNTRACK, NO_SIZE)


@pytest.fixture(scope="module")
def beside(builder: Builder) -> bundle.Bundle:
    """Return an update with a kprobe and a function that a task can sleep in."""
    return builder.make("redir004", BOOL, FIRST)


@pytest.fixture
def guest(shared_guest: Guest) -> Guest:
    """The guest of those tests whose updates can be unloaded."""
    return shared_guest


def takes(guest: Guest, word: str) -> bool:
    """Tell whether the kernel takes a word for a truth value."""
    try:
        guest.put(PARAMETER, word.encode())
    except LabError as e:
        if "Invalid argument" not in str(e):
            raise
        return False
    return True


def leave_romfs(guest: Guest) -> str:
    """Load and unload the module; return what its exit function says."""
    guest.run("dmesg --clear; rmmod romfs")
    log = guest.kernel_log()
    guest.run("modprobe romfs")
    return log


def test_what_the_bundle_says(functions: bundle.Bundle, pointers: bundle.Bundle) -> None:
    found = {f.name: f.how for t in functions.manifest.targets for f in t.functions}
    assert found == {"kstrtobool": "kprobe", "cleanup_module": "exit"}
    (target,) = pointers.manifest.targets
    assert [(p.table, p.unit) for p in target.pointers] == [("pipefifo_fops", "fs/pipe.c")]
    assert target.functions == ()


def test_what_the_bundle_says_of_tables(tables: bundle.Bundle) -> None:
    manifest = tables.manifest
    *functions, value = sorted(manifest.redirects, key=lambda r: r.endswith("by value"))
    assert functions == [
        "vmlinux:ipv4_ping_group_range by livepatch",
        "vmlinux:proc_tcp_available_congestion_control by livepatch",
        "nf_conntrack:nf_conntrack_hash_sysctl by livepatch",
    ]
    assert re.fullmatch(r"vmlinux:shmem_fs_parameters\+0x\w+ by value", value)
    assert manifest.is_complete
    assert manifest.ledger is not None
    assert {h.account for h in manifest.ledger.hunks} == {Account.IN_EFFECT}


def test_tables_in_every_namespace(guest: Guest, tables: bundle.Bundle) -> None:
    """Those from before the update, those made meanwhile; and all as they were after the undo."""
    folder, update = "/proc/sys/net/ipv4", Update(guest, tables)
    algorithms = guest.read(f"{folder}/tcp_available_congestion_control")
    protocols = guest.read(f"{folder}/tcp_available_ulp")
    assert algorithms != protocols
    entries: dict[str, str] = {"first": ""}

    def make_namespace(name: str) -> None:
        guest.run(f"systemd-run -u {name} -q unshare -n sleep infinity")
        guest.run(f"until systemctl is-active -q {name}; do sleep 0.1; done")
        pid = guest.run(f"systemctl show -p MainPID --value {name}").out.strip()
        entries[name] = f"nsenter -t {pid} -n "

    def fails(enter: str, path: str) -> bool:
        return guest.run(f"{enter}cat {path}", check=False).status != 0

    def shown() -> dict[str, tuple[str, bool, bool]]:
        return {
            name: (
                guest.run(f"{enter}cat {folder}/tcp_available_congestion_control").out.strip(),
                fails(enter, f"{folder}/ping_group_range"),
                fails(enter, "/proc/sys/net/netfilter/nf_conntrack_buckets"),
            )
            for name, enter in entries.items()
        }

    def takes_option() -> bool:
        options = "mount -t tmpfs -o noinode64 none /mnt && umount /mnt"
        return guest.run(options, check=False).status == 0

    guest.run("modprobe nf_conntrack")
    make_namespace("before")
    assert shown() == dict.fromkeys(["first", "before"], (algorithms, False, False))
    assert not takes_option()
    update.apply()
    make_namespace("meanwhile")
    assert shown() == dict.fromkeys(["first", "before", "meanwhile"], (protocols, True, True))
    assert takes_option()
    update.undo()
    make_namespace("after")
    assert set(shown().values()) == {(algorithms, False, False)}
    assert not takes_option()
    assert not update.keeps_code()
    assert is_clean(guest)


def test_kprobe_and_exit_function(guest: Guest, functions: bundle.Bundle) -> None:
    update = Update(guest, functions)
    guest.run("modprobe romfs")
    for _ in range(2):
        assert not takes(guest, "x")
        assert leave_romfs(guest) == ""
        update.apply()
        assert takes(guest, "x")
        assert takes(guest, "0")
        assert "romfs: the new way out" in leave_romfs(guest)
        # It is another module now, patched as it was loaded.
        assert "romfs: the new way out" in leave_romfs(guest)
        assert "kstrtobool" in guest.read("/sys/kernel/debug/kprobes/list")
        update.undo()
        assert "kstrtobool" not in guest.read("/sys/kernel/debug/kprobes/list")
    assert not takes(guest, "x")
    assert leave_romfs(guest) == ""
    assert is_clean(guest)


def test_old_function_answers_for_as_long_as_the_transition_lasts(
    guest: Guest, beside: bundle.Bundle
) -> None:
    """Also when an undo begins; one that is turned around leads to the new one again."""
    update = Update(guest, beside)
    livepatch = f"/sys/kernel/livepatch/{update.new}"
    guest.put("/root/blocker.py", BLOCKER.encode())

    def start_sleeper() -> None:
        guest.run("systemd-run -u blocker -q python3 /root/blocker.py")
        guest.run("until grep -l do_fcntl /proc/[0-9]*/stack; do sleep 0.1; done")

    def is_held_up_by_the_sleeper() -> bool:
        is_moving = guest.read(f"{livepatch}/transition") == "1"
        return is_moving and update.state("conflicts").split()[1:3] == ["do_fcntl", "python3"]

    def is_new_for(seconds: float) -> set[bool]:
        end, found = time.monotonic() + seconds, set[bool]()
        while time.monotonic() < end:
            found.add(takes(guest, "x"))
            time.sleep(0.05)
        return found

    start_sleeper()
    update.match()
    update.insmod(update.new)
    assert is_new_for(4) == {False}
    assert is_held_up_by_the_sleeper()
    assert ours(guest) == 1, "it is there, and leads nowhere yet"
    guest.run("systemctl stop blocker")
    update.wait()
    assert update.state("stage") == "applied"
    assert is_new_for(0.5) == {True}

    start_sleeper()
    guest.run(f"echo 0 >{livepatch}/enabled")
    assert is_new_for(4) == {False}
    assert is_held_up_by_the_sleeper()
    guest.run(f"echo 1 >{livepatch}/enabled")
    update.wait()
    assert update.state("stage") == "applied"
    assert is_new_for(0.5) == {True}
    guest.run("systemctl stop blocker")
    update.undo()
    assert is_new_for(0.5) == {False}
    assert ours(guest) == 0
    assert is_clean(guest)


def ours(guest: Guest) -> int:
    """Return how many kprobes are on the function."""
    return guest.read("/sys/kernel/debug/kprobes/list").count("kstrtobool")


def test_update_is_refused_while_kprobes_are_off(guest: Guest, functions: bundle.Bundle) -> None:
    switch = "/sys/kernel/debug/kprobes/enabled"
    update = Update(guest, functions)
    guest.run("modprobe romfs")
    update.match()
    guest.run(f"echo 0 >{switch}")
    assert update.insmod(update.new, check=False) != 0
    assert update.state("abort_cause") == "call_failed"
    assert f"write 1 to {switch}" in guest.kernel_log()
    assert "kstrtobool" not in guest.read("/sys/kernel/debug/kprobes/list")
    assert not takes(guest, "x")
    guest.run(f"echo 1 >{switch}")
    update.rmmod(update.core)
    update.apply()
    assert takes(guest, "x")
    update.undo()
    assert is_clean(guest)


def test_second_kprobe_on_the_same_function_is_refused(
    guest: Guest, functions: bundle.Bundle, builder: Builder
) -> None:
    """An update that was not built on top of the first one does not match what runs."""
    other = builder.make("redir003", BOOL)
    Update(guest, functions).apply(late=True)
    second = Update(guest, other)
    second.insmod(second.core)
    assert second.insmod(old_module(second.kid, "vmlinux"), check=False) != 0
    assert second.state("abort_cause") == "no_match"
    found = second.mismatch()
    config = (sample.config_folder(builder.cache, builder.kernel) / ".config").read_text()
    entry = "0x4" if "CONFIG_X86_KERNEL_IBT=y" in config else "0x0"  # behind endbr64
    assert (found["function"], found["offset"], found["found"][:2]) == ("kstrtobool", entry, "cc")


def test_kprobe_of_somebody_else_on_the_same_function(
    guest: Guest, functions: bundle.Bundle, kernel: KernelPackages, tmp_path: Path
) -> None:
    """Switched on before, it is no match.  To the kernel, the one that came last is the first."""
    parameters = "/sys/module/probe/parameters"

    def hits() -> int:
        return int(guest.read(f"{parameters}/hits"))

    guest.put("/root/probe.ko", build_module(kernel, tmp_path, "probe", PROBE))
    update = Update(guest, functions)
    guest.run("modprobe romfs; insmod /root/probe.ko")
    assert not takes(guest, "x")
    assert hits() > 0
    update.insmod(update.core)
    assert update.insmod(old_module(update.kid, "vmlinux"), check=False) != 0
    assert update.mismatch()["function"] == "kstrtobool"
    update.rmmod(update.core)

    guest.run("rmmod probe; insmod /root/probe.ko flags=2")
    update.apply()
    assert takes(guest, "x")
    guest.run(f"echo 1 >{parameters}/on")
    assert takes(guest, "x")
    assert hits() == 0
    guest.run("rmmod probe")
    assert takes(guest, "x")
    guest.run("insmod /root/probe.ko")
    assert takes(guest, "x")
    before = hits()
    assert before > 0
    update.undo()
    assert not takes(guest, "x")
    assert hits() > before
    guest.run("rmmod probe")
    assert ours(guest) == 0
    assert is_clean(guest)


def test_exit_function_that_somebody_else_exchanged_too(
    fresh_guest: Guest, functions: bundle.Bundle, builder: Builder
) -> None:
    """Undone in the order of applying, the second one gives back what was the first one's."""
    guest = fresh_guest
    first = Update(guest, functions)
    second = Update(guest, builder.make("redir005", EXIT_TOO))
    guest.run("modprobe romfs")
    first.apply()
    second.apply()
    first.undo()
    assert first.keeps_code(), "the second one leads to it"
    second.undo()
    assert not second.keeps_code()
    assert "romfs: the new way out" in leave_romfs(guest)
    assert leave_romfs(guest) == "", "loaded anew, it is nobody's"


def test_live_patch_that_replaces_all_frees_nothing_that_is_in_use(
    fresh_guest: Guest, functions: bundle.Bundle, kernel: KernelPackages, tmp_path: Path
) -> None:
    """It takes the update out without calling it: kprobe and exit function stay, and so must we."""
    guest = fresh_guest
    guest.put("/root/foreign.ko", build_module(kernel, tmp_path, "foreign", FOREIGN))
    update = Update(guest, functions)
    guest.run("modprobe romfs")
    update.apply()
    guest.run("insmod /root/foreign.ko replace=1")
    wait_in_guest(lambda: update.new not in guest.run("ls /sys/kernel/livepatch").out)
    time.sleep(1)  # livepatch gives its reference back from a work queue
    assert guest.run(["rmmod", update.new], check=False).status != 0
    assert takes(guest, "x")
    assert "romfs: the new way out" in leave_romfs(guest)
    assert leave_romfs(guest) == "", "loaded anew, it is nobody's"
    assert takes(guest, "0")


def test_pointer_of_a_table(fresh_guest: Guest, pointers: bundle.Bundle) -> None:
    """Who sleeps in the new function keeps the update in force; its code stays after that."""
    guest = fresh_guest
    guest.put("/root/sync.py", SYNC.encode())
    update = Update(guest, pointers)
    assert guest.run("python3 /root/sync.py").out.strip() == OLD
    update.apply()
    assert update.new not in guest.read("/proc/vmallocinfo"), "no way to write is left"
    assert guest.run("python3 /root/sync.py").out.strip() == NEW
    guest.run("sysctl -qw kernel.overflowgid=7777; systemd-run -u sync -q python3 /root/sync.py")
    wait_for_stack(guest, "pipe_fsync")
    livepatch = f"/sys/kernel/livepatch/{update.new}"
    guest.run(f"echo 0 >{livepatch}/enabled")
    assert guest.run("python3 /root/sync.py").out.strip() == OLD
    time.sleep(5)
    assert guest.read(f"{livepatch}/transition") == "1"
    task, *stack = update.state("conflicts").splitlines()
    assert task.split()[1:] == ["pipe_fsync", "python3"]
    assert any(line.startswith("\tpipe_fsync") for line in stack)
    guest.run("sysctl -qw kernel.overflowgid=65534")
    update.wait()
    assert update.state("stage") == "reversed"
    assert guest.run("python3 /root/sync.py").out.strip() == OLD
    assert update.keeps_code()
    assert guest.run(["rmmod", update.new], check=False).status != 0
