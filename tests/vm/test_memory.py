# SPDX-License-Identifier: GPL-2.0-only
"""Memory that the kernel part asks for and does not get: ``out_of_memory``, and nothing stays.

Stock kernels are built without fault injection, and what the kernel part asks for is always less
than the module that asks.  So a module of the test's own makes one of the kernel's allocations
after the other fail, for the task that loads: a kprobe on the function where fault injection would
be (mm/slab_common.c).
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from ksplicd import bundle
from ksplicd.create.stock_module import find_stock_module
from ksplicd.lab.cache import Cache
from ksplicd.lab.debian import KernelPackages
from ksplicd.lab.guest import Guest
from ksplicd.model import new_module, old_module
from ksplicd.run import run
from tests.stock import stock_kernel
from tests.vm.hand import Update, is_clean
from tests.vm.test_hostile import KID, MUTATIONS, made

__all__ = ["made"]

FAULT: Final = re.compile(r"WARNING:|BUG:|Oops")
"""Not the call trace that an allocation that fails is told with."""

STARVE: Final = """\
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/string.h>

static int after = -1, times = 1;
module_param(after, int, 0644);
module_param(times, int, 0644);

static noinline int no_memory(void)
{
	return -ENOMEM;
}

static int decide(struct kprobe *p, struct pt_regs *regs)
{
	if (after < 0 || strcmp(current->comm, "starved"))
		return 0;
	if (after) {
		after--;
		return 0;
	}
	if (!times)
		return 0;
	times--;
	regs->ip = (unsigned long)no_memory;
	return 1;
}

/* Keeps the probe from being optimised: the decision is where to go on. */
static void decided(struct kprobe *p, struct pt_regs *regs, unsigned long flags)
{
}

static struct kprobe probe = {
	.symbol_name = "should_failslab", .pre_handler = decide, .post_handler = decided,
};

static int __init starve_init(void)
{
	return register_kprobe(&probe);
}

static void __exit starve_exit(void)
{
	unregister_kprobe(&probe);
}

module_init(starve_init);
module_exit(starve_exit);
MODULE_LICENSE("GPL");
"""

LOADER: Final = """\
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_NAME, INIT_MODULE, DELETE_MODULE = 15, 175, 176
core, name, times = sys.argv[1], sys.argv[2], sys.argv[3]
def read(path):
    with open(path) as f:
        return f.read().strip()
def starve(after):
    for key, value in ("times", times), ("after", str(after)):
        with open(f"/sys/module/starve/parameters/{key}", "w") as f:
            f.write(value)
data = open(f"/root/{name}.ko", "rb").read()
for after in range(1000):
    starve(after)
    pid = os.fork()
    if not pid:
        libc.prctl(PR_SET_NAME, b"starved")
        failed = libc.syscall(INIT_MODULE, data, ctypes.c_ulong(len(data)), b"")
        os._exit(ctypes.get_errno() if failed else 0)
    error = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    is_over = read("/sys/module/starve/parameters/times") == times
    if not error:
        libc.syscall(DELETE_MODULE, name.encode(), os.O_NONBLOCK)
    cause = read(f"/sys/module/{core}/ksplice/abort_cause")
    left = [n for n in os.listdir("/sys/module") if n.startswith("ksplice_") and n != core]
    print(json.dumps([error, cause, left]))
    if is_over:
        break
"""

# As the loader above does, but a target, until the core has no memory to match it.
LATE: Final = """\
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_NAME, INIT_MODULE, DELETE_MODULE = 15, 175, 176
def read(name):
    with open(f"/sys/module/{sys.argv[1]}/ksplice/{name}") as f:
        return f.read().split()
def starve(after):
    for key, value in ("times", 1), ("after", after):
        with open(f"/sys/module/starve/parameters/{key}", "w") as f:
            f.write(str(value))
data = open("/root/target.ko", "rb").read()
for after in range(1000):
    starve(after)
    pid = os.fork()
    if not pid:
        libc.prctl(PR_SET_NAME, b"starved")
        failed = libc.syscall(INIT_MODULE, data, ctypes.c_ulong(len(data)), b"")
        os._exit(ctypes.get_errno() if failed else 0)
    error = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not error:
        libc.syscall(DELETE_MODULE, b"romfs", os.O_NONBLOCK)
    elif read("abort_cause") == ["out_of_memory"]:
        print(error, *read("targets"))
        break
starve(-1)
"""
ENOMEM: Final = 12
CASES: Final = [("romfs", 1), ("romfs", 2), ("vmlinux", 1), ("vmlinux", 2)]
MANY: Final = 1000
LEAST: Final = 5
"""Pieces of memory that the core asks for: the target, symbols' addresses, ..."""


@pytest.fixture
def starving(guest: Guest, tmp_path: Path, lab_cache: Cache) -> Guest:
    (tmp_path / "starve.c").write_text(STARVE)
    (tmp_path / "Kbuild").write_text("obj-m := starve.o\n")
    run(["make", "-C", stock_kernel(lab_cache).headers, f"M={tmp_path}", "modules"])
    guest.put("/root/starve.ko", tmp_path / "starve.ko")
    guest.put("/root/loader.py", LOADER.encode())
    guest.run("dmesg -n 1; modprobe romfs; insmod /root/starve.ko")
    return guest


@pytest.mark.parametrize(("target", "times"), CASES if MUTATIONS >= MANY else CASES[:1])
def test_every_allocation_fails_once(
    starving: Guest, made: bundle.Bundle, target: str, times: int
) -> None:
    """``times``: how many in a row; what is tried in two ways fails only in a row."""
    update = Update(starving, made)
    update.insmod(update.core)
    command = ["python3", "/root/loader.py", update.core, old_module(KID, target), str(times)]
    said = [json.loads(line) for line in starving.run(command).out.splitlines()]
    assert not any(left for _, _, left in said)
    causes = Counter((error, cause) for error, cause, _ in said)
    sys.stdout.write(f"{dict(causes)}\n")
    assert causes[ENOMEM, "out_of_memory"] >= LEAST
    assert set(causes) == {(0, "ok"), (ENOMEM, "ok"), (ENOMEM, "out_of_memory")}
    update.rmmod(update.core)
    assert is_clean(starving)
    assert not FAULT.search(starving.kernel_log())
    starving.run("rmmod starve")
    update.apply()
    update.undo()
    assert is_clean(starving)
    assert new_module(KID) not in starving.run("lsmod").out


def test_target_without_memory_is_refused_rather_than_left(
    starving: Guest, made: bundle.Bundle, kernel: KernelPackages
) -> None:
    """The policy is for a module that is another one; this one is the right one at the next try."""
    update = Update(starving, made)
    starving.put("/root/target.ko", find_stock_module(kernel.modules(), "romfs"))
    starving.put("/root/late.py", LATE.encode())
    starving.run("rmmod romfs")
    update.apply(late=True, policy="leave_unmatched=1")
    said = starving.run(f"python3 /root/late.py {update.core}").out.split()
    assert said[0] == str(ENOMEM)
    assert dict(zip(said[1::2], said[2::2], strict=True))["romfs"] == "refused"
    assert "romfs: no memory to match it, refused" in starving.kernel_log()
    starving.run("modprobe romfs")
    assert update.targets()["romfs"] == "matched"
    update.undo()
    assert is_clean(starving)
    assert not FAULT.search(starving.kernel_log())
