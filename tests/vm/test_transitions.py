# SPDX-License-Identifier: GPL-2.0-only
"""Tasks that hold a transition up, and how it ends: sleepers, kernel threads, busy tasks."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from ksplicd import bundle
from ksplicd.host.report.journal import Outcome
from ksplicd.lab.guest import Guest
from ksplicd.lab.running_guest import RunningGuest
from ksplicd.model import core_module, new_module
from tests.support.guest.blocker import BLOCKER
from tests.support.guest.hand import Edit, Update, is_clean, wait_for_stack
from tests.support.guest.host import Host
from tests.support.guest.journal import read_journal
from tests.support.guest.maker import FIRST, Maker
from tests.support.waiting import wait_in_guest

pytestmark = pytest.mark.usefixtures("golden_log")

KID, REAPER_KID = "first001", "reaper01"
JOB = "org.ksplice.Ksplicd1 /org/ksplice/Ksplicd1/job/1"
BUSY = """\
import os
for _ in range(os.cpu_count()):
    if os.fork() == 0:
        while True:
            pass
zero, null = open("/dev/zero", "rb", buffering=0), open("/dev/null", "wb", buffering=0)
buffer = bytearray(64 << 20)
while True:
    zero.readinto(buffer)
"""
OOM_REAPER = Edit(
    "mm/oom_kill.c",
    "\t\tif (tsk)\n\t\t\toom_reap_task(tsk);\n",
    "\t\tif (tsk) {\n\t\t\toom_reap_task(tsk);\n\t\t\tcond_resched();\n\t\t}\n",
)
"""In a kernel thread that never leaves the function."""
MANY_KID = "many0001"
SHOWS = tuple(
    Edit(f"fs/proc/{name}.c", shown, f'\tseq_puts(m, "many: ");\n{shown}')
    for name, shown in (
        ("cmdline", "\tseq_puts(m, saved_command_line);\n"),
        ("loadavg", '\tseq_printf(m, "%lu.%02lu'),
        ("version", "\tseq_printf(m, linux_proc_banner,\n"),
    )
)
COLD_KID = "cold0001"
PERSONALITY = "SYSCALL_DEFINE1(personality, unsigned int, personality)\n{\n"
PEEK = Edit(
    "kernel/exec_domain.c",
    PERSONALITY,
    f"""\
static noinline __cold long peeked(long found)
{{
	asm volatile("");
	return found + 1;
}}

{PERSONALITY}\
	long found;

	if (personality >> 30 == 1) {{
		found = !READ_ONCE(current->mm);
		found += READ_ONCE(*(int *)(unsigned long)personality);
		return peeked(found);
	}}

""",
)
"""Reads a number of the user's in a cold part, which is left by a jump and calls nothing.

The guest's processor has no SMAP, and an ``asm`` would keep gcc from making the part.  Stacks name
the instruction before, so the page is not read by the first one.
"""
IDLE_KID = "idle0001"
IDLE = Edit(
    "kernel/sched/idle.c",
    "\twhile (1)\n\t\tdo_idle();\n",
    "\twhile (1) {\n\t\tREAD_ONCE(current->flags);\n\t\tdo_idle();\n\t}\n",
)
"""In what every idle task runs in, for good."""
HOGS = """\
import os
for cpu in range(os.cpu_count()):
    if os.fork() == 0:
        os.sched_setaffinity(0, {cpu})
        while True:
            pass
os.wait()
"""
FAULT = """\
import ctypes, fcntl, os, struct, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
page = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x62, -1, ctypes.c_long(0))
uffd = libc.syscall(323, os.O_CLOEXEC)
fcntl.ioctl(uffd, 0xC018AA3F, struct.pack("QQQ", 0xAA, 0, 0))  # UFFDIO_API
fcntl.ioctl(uffd, 0xC020AA00, struct.pack("QQQQ", page, 4096, 1, 0))  # UFFDIO_REGISTER
def resolve():
    while not os.path.exists("/root/go"):
        time.sleep(0.1)
    filled = ctypes.create_string_buffer(struct.pack("i", 77) * 1024, 4096)
    copy = struct.pack("QQQQq", page, ctypes.addressof(filled), 4096, 0, 0)
    fcntl.ioctl(uffd, 0xC028AA03, copy)  # UFFDIO_COPY
threading.Thread(target=resolve).start()
found = libc.syscall(135, ctypes.c_void_p(page))
print(found, file=open("/root/found", "w"))
time.sleep(1000)
"""
"""Waits in ``personality`` for its own page, which lies low, until /root/go is there."""


@pytest.fixture(scope="module")
def file(maker: Maker) -> Path:
    return maker.make(KID, FIRST)


@pytest.fixture(scope="module")
def reaper(maker: Maker) -> Path:
    return maker.make(REAPER_KID, OOM_REAPER)


@pytest.fixture
def host(shared_installed_guest: Guest, maker: Maker) -> Host:
    return Host(shared_installed_guest, maker.key.public)


def start(guest: RunningGuest, name: str, program: str) -> None:
    guest.put(f"/root/{name}.py", program.encode())
    guest.run(f"systemd-run -u {name} -q /usr/bin/python3 /root/{name}.py")


def start_sleeper(guest: RunningGuest) -> str:
    """Let a task sleep in do_fcntl, waiting for a lock; return its process id."""
    start(guest, "blocker", BLOCKER)
    found = "grep -l do_fcntl /proc/[0-9]*/stack"
    return guest.run(f"until {found}; do sleep 0.1; done").out.split("/")[2]


def conflicts(guest: RunningGuest, kid: str) -> list[list[str]]:
    """Return process id, function and command of those that hold the transition up.

    The function must also be in the stack that is shown.
    """
    path = f"/sys/module/{core_module(kid)}/ksplice/conflicts"
    task, *stack = guest.read(path).splitlines() or [""]
    words = task.split()
    assert not words or any(
        re.match(rf"\t{words[1]}(\.cold)?(\.ksplice)?\+0x", line) for line in stack
    )
    return [words] if words else []


def test_sleeper_is_shown_in_both_directions(guest: Guest, file: Path) -> None:
    """The kernel does not wake it before 15 seconds are over."""
    update = Update(guest, bundle.unpack(file.read_bytes()))
    pid = start_sleeper(guest)
    update.match()
    update.insmod(update.new)
    guest.run(["sleep", "2"])
    assert conflicts(guest, KID) == [[pid, "do_fcntl", "python3"]]
    guest.run(f"echo 0 >/sys/kernel/livepatch/{update.new}/enabled")
    update.wait()
    assert update.state("stage") == "reversed"
    update.unload(update.new)
    assert not guest.run(["ls", f"/sys/module/{update.core}/ksplice/conflicts"], check=False).out
    update.rmmod(update.core)
    guest.run("systemctl stop blocker")

    update.apply()
    assert conflicts(guest, KID) == []
    pid = start_sleeper(guest)
    guest.run(f"echo 0 >/sys/kernel/livepatch/{update.new}/enabled; sleep 2")
    assert conflicts(guest, KID) == [[pid, "do_fcntl", "python3"]]
    guest.run("systemctl stop blocker")
    update.wait()
    assert update.state("stage") == "reversed"
    assert conflicts(guest, KID) == []


def test_idle_tasks_are_named(guest: Guest, maker: Maker) -> None:
    """Their processors are busy, so that they do not come to the place where they would move."""
    update = Update(guest, bundle.unpack(maker.make(IDLE_KID, IDLE).read_bytes()))
    start(guest, "hogs", HOGS)
    update.match()
    update.insmod(update.new)
    guest.run(["sleep", "2"])
    shown = guest.read(f"/sys/module/{update.core}/ksplice/conflicts").splitlines()
    assert [line for line in shown if not line.startswith("\t")] == [
        f"0 cpu_startup_entry swapper/{cpu}" for cpu in range(2)
    ]
    assert any(line.startswith("\tcpu_startup_entry+0x") for line in shown)
    guest.run("systemctl stop hogs")
    update.wait()
    assert update.state("stage") == "applied"
    update.undo()


def test_task_in_a_cold_part_holds_an_undo_up(guest: Guest, maker: Maker) -> None:
    """Its stack does not show the function, and the cold part has no call."""
    made = bundle.unpack(maker.make(COLD_KID, PEEK).read_bytes())
    update = Update(guest, made)
    update.apply()
    start(guest, "fault", FAULT)
    wait_for_stack(guest, "__x64_sys_personality.cold")
    guest.run(f"echo 0 >/sys/kernel/livepatch/{update.new}/enabled; sleep 2")
    pid = guest.run("systemctl show -P MainPID fault").out.strip()
    assert conflicts(guest, COLD_KID) == [[pid, "__x64_sys_personality", "python3"]]
    guest.run("touch /root/go")
    update.wait()
    assert update.state("stage") == "reversed"
    wait_in_guest(lambda: guest.read("/root/found", if_there=True).strip() == "78")
    update.unload(update.new)


def test_undo_is_over_before_ftrace_lets_go(guest: Guest, maker: Maker) -> None:
    """Of each function by itself, under livepatch's lock, it would let go first."""
    update = Update(guest, bundle.unpack(maker.make(MANY_KID, FIRST, *SHOWS).read_bytes()))
    patch = f"/sys/kernel/livepatch/{update.new}"
    read = "cat /proc/cmdline /proc/loadavg /proc/version"
    traced = "grep -E '^(do_fcntl|(cmdline|loadavg|version)_proc_show) '"
    traced += " /sys/kernel/tracing/enabled_functions"
    update.apply()
    assert guest.run(read).out.count("many: ") == 3
    guest.run(f"echo 0 >{patch}/enabled; while [ -e {patch} ]; do :; done; {traced} >/root/traced")
    assert len(guest.read("/root/traced").splitlines()) > 1
    assert "many" not in guest.run(read).out
    update.unload(update.new)
    assert guest.run(traced, check=False).out == ""
    update.rmmod(update.core)

    update.apply()
    start_sleeper(guest)
    guest.run(f"echo 0 >{patch}/enabled; sleep 1; echo 1 >{patch}/enabled")
    guest.run("systemctl stop blocker")
    update.wait()
    assert update.state("stage") == "applied"
    assert guest.run(read).out.count("many: ") == 3
    update.undo()
    assert guest.run(traced, check=False).out == ""


def transition_seconds(guest: RunningGuest, direction: str) -> float:
    """Return how long the last transition took, by the kernel's own clock."""
    log = guest.run("dmesg").out
    begins = re.findall(rf"^\[ *([\d.]+)\] .*: starting {direction} transition$", log, re.M)
    ends = re.findall(rf"^\[ *([\d.]+)\] .*: {direction} complete$", log, re.M)
    return float(ends[-1]) - float(begins[-1])


def test_transitions_end_before_livepatch_looks_again(guest: Guest, file: Path) -> None:
    """livepatch alone takes three quarters of a second at least when it looks twice."""
    update = Update(guest, bundle.unpack(file.read_bytes()))
    enabled = f"/sys/kernel/livepatch/{update.new}/enabled"
    forth, back, turned = [], [], []
    for _ in range(3):
        update.apply()
        forth.append(transition_seconds(guest, "patching"))
        update.undo()
        back.append(transition_seconds(guest, "unpatching"))
    for _ in range(3):
        start_sleeper(guest)
        update.match()
        update.insmod(update.new)
        guest.run(f"sleep 1; echo 0 >{enabled}")  # all early looks are over by then
        update.wait()
        turned.append(transition_seconds(guest, "unpatching"))
        update.unload(update.new)
        update.rmmod(update.core)
        guest.run("systemctl stop blocker")
    assert max(map(min, (forth, back, turned))) < 0.6, (forth, back, turned)


def test_sleeper_is_woken_when_that_is_wanted(host: Host, file: Path) -> None:
    host.configure("signal-after = 1")
    pid = start_sleeper(host.guest)
    begin = time.monotonic()
    assert host.apply(file) == ("", "")
    between = time.monotonic()
    assert host.undo(KID) == ("", "")
    assert between - begin < 13, "livepatch wakes it after 15 seconds"
    assert time.monotonic() - between < 13
    assert "do_fcntl" in host.guest.run(["cat", f"/proc/{pid}/stack"]).out, "it waits again"
    assert is_clean(host.guest)


def test_kernel_thread_that_never_leaves(host: Host, reaper: Path) -> None:
    host.configure("transition-limit = 4", "signal-after = 1")
    cause, message = host.apply(reaper)
    assert cause == "code_busy"
    assert "held up by 1 task in oom_reaper, which the journal names" in message
    told = read_journal(host.guest, f"-o json MESSAGE_ID={Outcome.HELD_UP.value}")
    entry = json.loads(told.splitlines()[-1])
    assert entry["KSPLICE_FUNCTION"] == "oom_reaper"
    assert host.guest.run(f"cat /proc/{entry['KSPLICE_PIDS']}/comm").out == "oom_reaper\n"
    assert is_clean(host.guest)
    assert f"'{new_module(REAPER_KID)}': unpatching complete" in host.guest.kernel_log()


def test_job_says_who_holds_it_up_while_it_waits(
    installed_guest: Guest, maker: Maker, reaper: Path
) -> None:
    """Over the bus and in the command's JSON, as the kernel itself has it."""
    guest, host = installed_guest, Host(installed_guest, maker.key.public)
    host.configure("transition-limit = 600")
    apply = f"ksplice apply --raw-errors {host.put(reaper)} 2>/root/said; echo $? >/root/status"
    guest.run(["systemd-run", "-u", "apply", "-q", "/bin/sh", "-c", apply])

    def conflicts_of_job() -> Any:
        shown = f"busctl --json=short call {JOB} org.ksplice.Ksplicd1.Job ListConflicts t 0"
        return json.loads(guest.run(shown, check=False).out or "{}").get("data", [[]])[0]

    found = wait_in_guest(  # at first others hold it up too
        lambda: len(shown := conflicts_of_job()) == 1 and shown,
        conflicts_of_job,
    )
    pid = int(guest.run("pgrep -x oom_reaper").out)
    stack = re.findall(r"\] ([\w.]+)\+", guest.read(f"/proc/{pid}/stack"))
    assert "oom_reaper" in stack
    shown = " < ".join(stack)
    assert found == [[pid, "oom_reaper", shown, "oom_reaper"]]
    status = json.loads(host.ksplice("status --json").out)
    conflict = {"pid": pid, "command": "oom_reaper", "stack": shown, "function": "oom_reaper"}
    assert status["jobs"] == [
        {
            "id": 1,
            "type": "apply",
            "kid": REAPER_KID,
            "progress": "transitioning",
            "conflicts": [conflict],
        }
    ]
    assert f"held up by oom_reaper[{pid}] in {shown}\n" in host.ksplice("status").out

    guest.run(f"busctl call {JOB} org.ksplice.Ksplicd1.Job Cancel")
    wait_in_guest(lambda: guest.read("/root/status", if_there=True))
    assert guest.read("/root/said").splitlines()[0] == "cancelled"
    assert is_clean(guest)


def test_busy_tasks_hold_nothing_up(host: Host, file: Path) -> None:
    """In user mode and in the kernel, more of them than processors."""
    start(host.guest, "busy", BUSY)
    assert host.apply(file) == ("", "")
    assert host.undo(KID) == ("", "")
    assert host.guest.run("pgrep -cf '^/usr/bin/python3 /root/busy'").out == "3\n"
    assert is_clean(host.guest)
