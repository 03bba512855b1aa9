# SPDX-License-Identifier: GPL-2.0-only
"""Failed allocations of the kernel part: ``out_of_memory``, and nothing stays loaded.

Stock kernels are built without fault injection, and the kernel part always asks for less memory
than its module takes.  So a module of the test makes the allocations of an update's module fail,
one after the other, while that is loaded: by a kprobe on the function where fault injection would
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
from ksplicd.cache import Cache
from ksplicd.create.stock.module import find_stock_module
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.guest import Guest
from ksplicd.model import new_module, old_module
from tests.support.guest.foreign import build_module
from tests.support.guest.hand import Update, is_clean, make_bundle, write_patch
from tests.support.guest.host import ASK
from tests.support.guest.hostile import KID, MUTATIONS
from tests.support.guest.maker import FIRST
from tests.support.guest.redirected import BOOL, EXIT, POINTER

FAULT: Final = re.compile(r"WARNING:|BUG:|Oops")
"""Not the call trace that an allocation that fails is told with."""
OF_LIVEPATCH: Final = re.compile(r"at kernel/livepatch/patch\.c:\d+ __klp_unpatch_object")
"""Its way back from a function that it has just redirected needs memory, and warns without."""

STARVE: Final = """\
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/pgtable.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/stacktrace.h>
#include <linux/string.h>

static int after = -1, times = 1;
module_param(after, int, 0644);
module_param(times, int, 0644);

/* Asked for by an update's module, or by the kernel on its behalf: it is on the stack. */
static bool is_for_update(void)
{
	unsigned long stack[64];
	unsigned int i, nr = stack_trace_save(stack, ARRAY_SIZE(stack), 0);
	char name[KSYM_SYMBOL_LEN];

	for (i = 0; i < nr; i++) {
		/* A name is a search among all symbols. */
		if (stack[i] < MODULES_VADDR || stack[i] >= MODULES_END)
			continue;
		snprintf(name, sizeof(name), "%pS", (void *)stack[i]);
		if (strstr(name, "[ksplice_"))
			return true;
	}
	return false;
}

static noinline int no_memory(void)
{
	return -ENOMEM;
}

static int decide(struct kprobe *p, struct pt_regs *regs)
{
	/* An interrupt's memory is not the task's. */
	if (after < 0 || !in_task() || strcmp(current->comm, "starved") || !is_for_update())
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

START: Final = """\
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_NAME, INIT_MODULE, DELETE_MODULE = 15, 175, 176
core, name, times, step = sys.argv[1:]
STARVE = "/sys/module/starve/parameters"
def read(path):
    with open(path) as f:
        return f.read().strip()
def starve(after, times):
    for key, value in ("times", times), ("after", after):
        with open(f"{STARVE}/{key}", "w") as f:
            f.write(str(value))
def load(after):
    starve(after, times)
    pid = os.fork()
    if not pid:
        libc.prctl(PR_SET_NAME, b"starved")
        failed = libc.syscall(INIT_MODULE, data, ctypes.c_ulong(len(data)), b"")
        os._exit(ctypes.get_errno() if failed else 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def unload():
    libc.syscall(DELETE_MODULE, name.encode(), os.O_NONBLOCK)
SYSLOG_ACTION_READ_CLEAR = 4
log = ctypes.create_string_buffer(1 << 20)
def faults():
    size = libc.klogctl(SYSLOG_ACTION_READ_CLEAR, log, len(log))
    lines = log.raw[:size].decode(errors="replace").splitlines()
    return [line for line in lines if any(w in line for w in ("WARNING:", "BUG:", "Oops"))]
def show(error):
    left = os.listdir("/sys/module") + os.listdir("/sys/kernel/livepatch")
    left = [n for n in left if n.startswith("ksplice_") and n != core]
    cause = read(f"/sys/module/{core}/ksplice/abort_cause")
    print(json.dumps([error, cause, left + faults()]))
data = open(f"/root/{name}.ko", "rb").read()
"""
"""What follows has a core, another module, how many allocations in a row shall fail, and how many
to go on by."""

# Until so many more are to fail than are made.
OLD_CODE: Final = """\
for after in range(1000):
    error = load(after)
    if not error:
        unload()
    show(error)
    if read(f"{STARVE}/times") == times:
        break
"""

# Until what fails at the end does no harm.
NEW_CODE: Final = """\
for after in range(0, 5000, int(step)):
    error = load(after)
    if not error:
        break
    show(error)
starve(-1, 0)
"""

# Until the core has no memory to match the target.
TARGET: Final = """\
for after in range(1000):
    error = load(after)
    if not error:
        unload()
    elif read(f"/sys/module/{core}/ksplice/abort_cause") == "out_of_memory":
        print(error, *read(f"/sys/module/{core}/ksplice/targets").split())
        break
starve(-1, 0)
"""
ENOMEM: Final = 12
CASES: Final = [("romfs", 1), ("romfs", 2), ("vmlinux", 1), ("vmlinux", 2)]
MANY: Final = 1000
FOREVER: Final = 1_000_000
LONG: Final = 1200.0
"""Seconds."""
LEAST: Final = 5
"""Pieces of memory that the core asks for: the target, symbols' addresses, ..."""


@pytest.fixture
def starving(guest: Guest, kernel: KernelPackages, tmp_path: Path) -> Guest:
    guest.put("/root/starve.ko", build_module(kernel, tmp_path, "starve", STARVE))
    guest.run("dmesg -n 1; modprobe romfs; insmod /root/starve.ko")
    return guest


def starved(update: Update, script: str, name: str, times: int, step: int = 1) -> str:
    """Run a script, for a module; return what it says."""
    update.guest.put("/root/loader.py", (START + script).encode())
    command = ["python3", "/root/loader.py", update.core, name, str(times), str(step)]
    return update.guest.run(command, timeout=LONG).out


def refusals(said: str, expected: re.Pattern[str] | None = None) -> Counter[tuple[int, str]]:
    """Return how often each error and abort cause was met.

    Nothing may have stayed, and the kernel have told of no fault but an ``expected`` one.
    """
    shown = [json.loads(line) for line in said.splitlines()]
    found = [what for _, _, whats in shown for what in whats]
    assert not [what for what in found if expected is None or not expected.search(what)]
    causes = Counter((error, cause) for error, cause, _ in shown)
    sys.stdout.write(f"{dict(causes)}\n")
    return causes


@pytest.mark.parametrize(("target", "times"), CASES if MUTATIONS >= MANY else CASES[:1])
def test_every_allocation_fails_once(
    starving: Guest, hostile_bundle: bundle.Bundle, target: str, times: int
) -> None:
    """``times``: how many in a row; what is tried in two ways fails only in a row."""
    update = Update(starving, hostile_bundle)
    update.insmod(update.core)
    said = starved(update, OLD_CODE, old_module(KID, target), times)
    causes = refusals(said)
    assert causes[ENOMEM, "out_of_memory"] >= LEAST
    assert set(causes) == {(0, "ok"), (ENOMEM, "out_of_memory")}
    update.rmmod(update.core)
    assert is_clean(starving)
    assert not FAULT.search(starving.kernel_log())
    starving.run("rmmod starve")
    update.apply()
    update.undo()
    assert is_clean(starving)
    assert new_module(KID) not in starving.run("lsmod").out


def test_target_without_memory_is_refused_rather_than_left(
    starving: Guest, hostile_bundle: bundle.Bundle, kernel: KernelPackages
) -> None:
    """The policy is for a module that is another one; this one is the right one at the next try."""
    update = Update(starving, hostile_bundle)
    starving.put("/root/romfs.ko", find_stock_module(kernel.modules(), "romfs"))
    starving.run("rmmod romfs")
    update.apply(late=True, policy="leave_unmatched=1")
    said = starved(update, TARGET, "romfs", 1).split()
    assert said[0] == str(ENOMEM)
    assert dict(zip(said[1::2], said[2::2], strict=True))["romfs"] == "refused"
    assert "romfs: no memory to match it, refused" in starving.kernel_log()
    starving.run("modprobe romfs")
    assert update.targets()["romfs"] == "matched"
    update.undo()
    assert is_clean(starving)
    assert not FAULT.search(starving.kernel_log())


def test_new_code_runs_out_of_memory_anywhere(
    starving: Guest, lab_cache: Cache, kernel: KernelPackages, tree: Path, tmp_path: Path
) -> None:
    """From each allocation on none succeeds: livepatch's, a kprobe's, a mapping's.

    The cause stays for as long as the core does.
    """
    patch = write_patch(tree, tmp_path / "starved.patch", FIRST, BOOL, EXIT, POINTER)
    update = Update(starving, make_bundle(lab_cache, kernel, "starved1", [patch]))
    update.match()
    step = 1 if MUTATIONS >= MANY else 4
    causes = refusals(starved(update, NEW_CODE, update.new, FOREVER, step), OF_LIVEPATCH)
    assert set(causes) == {(ENOMEM, "out_of_memory")}
    assert causes.total() >= LEAST
    update.wait()
    assert update.state("stage") == "applied"
    assert starving.run(ASK).out == "16\n"
    update.undo()
    assert starving.run(ASK).out == "0\n"
    assert "kstrtobool" not in starving.run("cat /sys/kernel/debug/kprobes/list").out
    assert not FAULT.search(starving.kernel_log())
