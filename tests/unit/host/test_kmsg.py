# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's complaints, as 6.1 and 6.12 log them, and log lines that are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksplicd.host.kernel.kmsg import Complaint, Reader, Watchlist
from ksplicd.host.stages import UpdateInfo
from ksplicd.model import Stage, new_module
from tests.support.bundles import samples

NEW = new_module(samples.KID)

WARNING = f"""\
------------[ cut here ]------------
WARNING: CPU: 1 PID: 812 at fs/fcntl.c:337 do_fcntl+0x1c/0x560 [{NEW}]
Modules linked in: {NEW}(OEK) ksplice_{samples.OTHER_KID}_new(OEK) virtio_net
CPU: 1 PID: 812 Comm: python3 Tainted: G           OE K    6.1.0-50-cloud-amd64 #1  Debian 6.1.176-1
RIP: 0010:do_fcntl+0x1c/0x560 [{NEW}]
Code: 0f 0b
Call Trace:
 <TASK>
 ? ksplice_stale+0x1/0x2
 __x64_sys_fcntl+0x80/0xb0
 do_syscall_64+0x55/0xb0
 entry_SYSCALL_64_after_hwframe+0x6e/0xd8
RIP: 0033:0x7f1234567890
 </TASK>
---[ end trace 0000000000000000 ]---
 too_late+0x1/0x2
"""
OOPS = """\
BUG: kernel NULL pointer dereference, address: 0000000000000000
#PF: supervisor read access in kernel mode
Oops: 0000 [#1] PREEMPT SMP NOPTI
RIP: 0010:ext4_iget+0x10/0x20 [ext4]
 vfs_read+0x1/0x2
---[ end trace 0000000000000000 ]---
"""
LOCKUP = """\
watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [do_fcntl+0x1/0:812]
RIP: 0010:native_safe_halt+0xb/0x10
 do_fcntl+0x20/0x560
"""


def record(text: str, *, seconds: float = 12.5, priority: int = 4) -> bytes:
    return f"{priority},1,{round(seconds * 1e6)},-;{text}\n SUBSYSTEM=x\n".encode()


def read(text: str, priority: int = 4) -> list[Complaint]:
    reader, lines = Reader(), text.splitlines()
    return [c for line in lines for c in reader.feed(record(line, priority=priority))]


def places(found: list[Complaint]) -> list[str]:
    return [f"{c.function} {c.module}".strip() for c in found]


def test_warning() -> None:
    found = read(WARNING)
    assert places(found) == [
        f"do_fcntl {NEW}",
        *("__x64_sys_fcntl", "do_syscall_64", "entry_SYSCALL_64_after_hwframe"),
    ]
    assert {c.headline for c in found} == {WARNING.splitlines()[1]}
    assert {c.time for c in found} == {12.5}


def test_oops_is_called_by_its_first_line() -> None:
    found = read(OOPS)
    assert places(found) == ["ext4_iget ext4", "vfs_read"]
    assert found[0].headline.startswith("BUG: kernel NULL pointer dereference")


def test_lockup_and_the_next_complaint() -> None:
    found = read(LOCKUP + WARNING)
    assert places(found)[:3] == ["native_safe_halt", "do_fcntl", f"do_fcntl {NEW}"]
    assert [c.headline[:9] for c in found[:3]] == ["watchdog:", "watchdog:", "WARNING: "]


@pytest.mark.parametrize(
    "line",
    [
        "INFO: task cat:812 blocked for more than 120 seconds.",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "rcu: INFO: rcu_preempt self-detected stall on CPU",
        "watchdog: Watchdog detected hard LOCKUP on cpu 0",
        "kernel BUG at fs/fcntl.c:12!",
        "UBSAN: array-index-out-of-bounds in fs/fcntl.c:12:3",
        "general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
        "WARNING: CPU: 0 PID: 1 at kernel/fork.c:1 copy_process+0x1/0x2 [x 0123456789abcdef]",
    ],
)
def test_headlines(line: str) -> None:
    found = read(f"{line}\n do_fcntl+0x20/0x560\n")
    assert places(found)[-1] == "do_fcntl"
    assert found[-1].headline == line


def test_what_user_space_writes_into_the_log_is_not_believed() -> None:
    assert read(WARNING, priority=(1 << 3) + 4) == []


@pytest.mark.parametrize(
    "line",
    [
        f"Modules linked in: {NEW}(OEK)",
        " ? do_fcntl+0x1/0x2",
        "usb 1-1: Product:  do_fcntl+0x1/0x2",
        " do_fcntl+0x1/0x2 and more",
        "CPU: 0 PID: 1 Comm: do_fcntl+0x1/0x2 Not tainted",
        "[do_fcntl+0x1/0x2]",
    ],
)
def test_lines_that_are_no_place_on_the_stack(line: str) -> None:
    assert read(f"WARNING: CPU: 0\n{line}\n") == []


def test_stack_without_a_complaint() -> None:
    assert read(" do_fcntl+0x20/0x560\n") == []


def test_old_complaint_is_over() -> None:
    reader = Reader()
    assert list(reader.feed(record("WARNING: x", seconds=1))) == []
    assert list(reader.feed(record(" do_fcntl+0x20/0x560", seconds=7))) == []


def test_endless_complaint_is_cut() -> None:
    assert len(read("WARNING: x\n" + "".join(f" f{i}+0x1/0x2\n" for i in range(2000)))) < 600


@given(st.binary())
def test_any_bytes_are_read(data: bytes) -> None:
    reader = Reader()
    for prefix in (b"", record("WARNING: x"), b"4,1,1,-;"):
        for complaint in reader.feed(prefix + data):
            assert complaint.headline


# --- whom they mean -----------------------------------------------------------------------------


def info(kid: str = samples.KID, targets: tuple[str, ...] = ("vmlinux",)) -> UpdateInfo:
    manifest = samples.manifest(kid, targets)
    return UpdateInfo(kid=kid, stage=Stage.APPLIED, abort_cause="", detail="", manifest=manifest)


def complaint(function: str, module: str = "") -> Complaint:
    return Complaint(time=1, headline="WARNING: x", function=function, module=module)


@pytest.mark.parametrize(
    ("function", "module", "is_meant"),
    [
        ("anything", NEW, True),
        ("anything", f"ksplice_{samples.KID}", True),
        ("anything", f"ksplice_{samples.KID}_ext4_old", True),
        ("anything", f"ksplice_{samples.OTHER_KID}_new", False),
        ("do_fcntl", "", True),
        ("do_fcntl", "ext4", True),
        ("do_fcntl", "xfs", False),
        ("do_open", "", False),
    ],
)
def test_names_that_mean_an_update(function: str, module: str, is_meant: bool) -> None:  # noqa: FBT001
    watchlist = Watchlist([info(targets=("vmlinux", "ext4"))])
    found = watchlist.find(complaint(function, module))
    assert found == ({samples.KID} if is_meant else set())


def test_function_of_two_updates() -> None:
    watchlist = Watchlist([info(), info(samples.OTHER_KID)])
    assert watchlist.find(complaint("do_fcntl")) == {samples.KID, samples.OTHER_KID}
