# SPDX-License-Identifier: GPL-2.0-only
"""The door to the running kernel, with a folder for /sys and /proc and simulated system calls."""

import errno
import fcntl
import os
import platform
import struct
from pathlib import Path

import pytest

from ksplicd.errors import (
    InUseError,
    KspliceError,
    MissingExportError,
    ModulePresentError,
    ModuleRefusedError,
    NoSuchUpdateError,
    OutOfMemoryError,
    UnexpectedError,
)
from ksplicd.host.kernel.door import CoreState, LivepatchState, MatchedTarget
from ksplicd.host.kernel.linux import MAX_BLOCKERS, LinuxKernel, SystemCalls
from ksplicd.host.stages import Conflict
from tests.support.host.host import Host

KID = "8c4o6ucj"
NEW = f"ksplice_{KID}_new"
CORE = f"ksplice_{KID}"


class Calls(SystemCalls):
    """Returns errnos from a list, 0 after its end, and records the calls."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.seen: list[object] = []

    def finit_module(self, fd: int, params: bytes, flags: int) -> int:
        self.seen.append((os.pread(fd, 100, 0), fcntl.fcntl(fd, fcntl.F_GET_SEALS)))
        with pytest.raises(PermissionError, match="Operation not permitted"):
            os.pwrite(fd, b"x", 0)
        assert (params, flags) == (b"", 0)
        return self.answers.pop(0) if self.answers else 0

    def delete_module(self, name: bytes, flags: int) -> int:
        assert flags == os.O_NONBLOCK
        self.seen.append(name)
        return self.answers.pop(0) if self.answers else 0


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("name", ["enabled", "transition"])
def test_livepatch_that_cannot_be_read_is_not_gone(tmp_path: Path, name: str) -> None:
    """As without a free descriptor; a folder in its place has the same effect."""
    folder = tmp_path / "sys/kernel/livepatch" / NEW
    write(folder / "enabled", "1\n")
    write(folder / "transition", "0\n")
    kernel = LinuxKernel(tmp_path)
    assert kernel.livepatch(NEW) == LivepatchState(enabled=True, transition=False)
    (folder / name).unlink()
    assert kernel.livepatch(NEW) is None
    (folder / name).mkdir()
    with pytest.raises(UnexpectedError, match=f"{name}: Is a directory"):
        kernel.livepatch(NEW)


def test_modules_that_cannot_be_listed(tmp_path: Path) -> None:
    assert LinuxKernel(tmp_path).modules() == frozenset()
    write(tmp_path / "sys/module", "")
    with pytest.raises(UnexpectedError, match="module: Not a directory"):
        LinuxKernel(tmp_path).modules()


def test_module_is_loaded_from_a_sealed_memfd() -> None:
    calls = Calls()
    before = len(list(Path("/proc/self/fd").iterdir()))
    LinuxKernel(calls=calls).load_module(b"module", NEW)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    # and where the kernel knows it (6.3) that it is not to be run: F_SEAL_EXEC
    assert calls.seen in ([(b"module", seals)], [(b"module", seals | 0x0020)])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("error", "cls", "message"),
    [
        (errno.EEXIST, ModulePresentError, "File exists: a module of this name is loaded"),
        (errno.EBUSY, InUseError, "another transition runs"),
        (errno.ENOMEM, OutOfMemoryError, "the kernel has no memory for it"),
        (errno.EPERM, ModuleRefusedError, "not permitted: kernel.modules_disabled, or lockdown"),
        (errno.EKEYREJECTED, ModuleRefusedError, "this kernel loads signed modules only"),
        (errno.ENOKEY, ModuleRefusedError, "a key that this kernel does not have"),
        (errno.ENOEXEC, ModuleRefusedError, "not a module for this kernel; see dmesg"),
        (errno.ENOENT, MissingExportError, "this kernel exports no such symbol"),
        (errno.EINVAL, UnexpectedError, "Invalid argument: see dmesg"),
    ],
)
def test_what_an_errno_means(error: int, cls: type[KspliceError], message: str) -> None:
    with pytest.raises(cls, match=f"{NEW}: cannot be loaded: .*{message}"):
        LinuxKernel(calls=Calls(error)).load_module(b"module", NEW)


def test_unload() -> None:
    calls, pauses = Calls(errno.EAGAIN, errno.EAGAIN), list[float]()
    LinuxKernel(calls=calls, sleep=pauses.append).unload_module(NEW)
    assert calls.seen == [NEW.encode()] * 3
    assert pauses == [0.05, 0.05]


def test_unload_gives_up() -> None:
    pauses = list[float]()
    kernel = LinuxKernel(calls=Calls(*[errno.EAGAIN] * 1000), sleep=pauses.append)
    with pytest.raises(InUseError, match=f"{NEW}: cannot be unloaded: it is in use"):
        kernel.unload_module(NEW)
    assert sum(pauses) == pytest.approx(4.95)


@pytest.mark.parametrize("name", [NEW, "ksplice_8c4o6ucj"])
def test_unload_of_what_is_kept_is_not_waited_for(tmp_path: Path, name: str) -> None:
    write(tmp_path / f"sys/module/{NEW}/parameters/keeps_code", "Y\n")
    (tmp_path / f"sys/module/ksplice_8c4o6ucj/holders/{NEW}").mkdir(parents=True)
    pauses = list[float]()
    kernel = LinuxKernel(tmp_path, calls=Calls(errno.EAGAIN), sleep=pauses.append)
    with pytest.raises(InUseError, match=f"{name}: stays loaded until the next boot"):
        kernel.unload_module(name)
    assert pauses == []
    write(tmp_path / f"sys/module/{NEW}/parameters/keeps_code", "N\n")
    assert not kernel.is_kept(name)


def test_what_ftrace_has_not_let_go_of_yet(tmp_path: Path) -> None:
    kernel = LinuxKernel(tmp_path)
    assert not kernel.lets_go(NEW)
    for value in ("N", "Y"):
        write(tmp_path / f"sys/module/{NEW}/parameters/lets_go", f"{value}\n")
        assert kernel.lets_go(NEW) == (value == "Y")


def test_unload_of_what_is_not_there() -> None:
    LinuxKernel(calls=Calls(errno.ENOENT)).unload_module(NEW)
    with pytest.raises(UnexpectedError, match="cannot be unloaded: Operation not permitted"):
        LinuxKernel(calls=Calls(errno.EPERM)).unload_module(NEW)


def test_unload_where_modules_are_disabled(tmp_path: Path) -> None:
    write(tmp_path / "proc/sys/kernel/modules_disabled", "1\n")
    kernel = LinuxKernel(tmp_path, calls=Calls(errno.EPERM))
    with pytest.raises(InUseError, match="next boot: kernel"):
        kernel.unload_module(NEW)


def test_real_system_calls_answer_an_errno() -> None:
    # Neither can do anything: fd -1 is no file, and the name is not that of a module.
    calls = SystemCalls()
    assert calls.finit_module(-1, b"", 0) in {errno.EBADF, errno.EPERM, errno.ENOSYS}
    error = calls.delete_module(b"no such module", os.O_NONBLOCK)
    assert error in {errno.ENOENT, errno.EPERM, errno.ENOSYS}


def test_identity(tmp_path: Path) -> None:
    write(tmp_path / "proc/sys/kernel/random/boot_id", "80315d2a-39c8-473e-851e-a8e71d016c86\n")
    notes = [
        struct.pack("<III4s8s", 4, 8, 1, b"GNU\0", b"abi tag."),
        struct.pack("<III8s3sx", 6, 3, 3, b"Linux\0\0\0", b"abc"),
        struct.pack("<III4s20s", 4, 20, 3, b"GNU\0", bytes(range(20))),
    ]
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/notes").write_bytes(b"".join(notes))
    kernel = LinuxKernel(tmp_path)
    assert kernel.boot_id() == "80315d2a39c8473e851ea8e71d016c86"
    assert kernel.build_id() == bytes(range(20)).hex()
    assert (kernel.release(), kernel.version()) == (platform.release(), platform.version())


@pytest.mark.parametrize("notes", [b"", b"\1\2\3", bytes(40)])
def test_no_build_id(tmp_path: Path, notes: bytes) -> None:
    with pytest.raises(UnexpectedError, match=r"notes: No such file"):
        LinuxKernel(tmp_path).build_id()
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/notes").write_bytes(notes)
    with pytest.raises(UnexpectedError, match=r"notes: this kernel has no GNU build id"):
        LinuxKernel(tmp_path).build_id()


def test_modules_and_livepatches(tmp_path: Path) -> None:
    write(tmp_path / "sys/module/ext4/initstate", "live\n")
    write(tmp_path / "sys/module/kernel/parameters/panic", "0\n")  # built in
    write(tmp_path / f"sys/kernel/livepatch/{NEW}/enabled", "1\n")
    write(tmp_path / f"sys/kernel/livepatch/{NEW}/transition", "0\n")
    (tmp_path / f"sys/kernel/livepatch/{NEW}/vmlinux/do_fcntl,1").mkdir(parents=True)
    (tmp_path / f"sys/kernel/livepatch/{NEW}/romfs/romfs_iget.isra.0,2").mkdir(parents=True)
    kernel = LinuxKernel(tmp_path)
    assert kernel.modules() == {"ext4"}
    assert kernel.replaced() == {
        NEW: {("vmlinux", "do_fcntl", 1), ("romfs", "romfs_iget.isra.0", 2)}
    }
    assert kernel.livepatches() == {NEW}
    assert kernel.livepatch(NEW) == LivepatchState(enabled=True, transition=False)
    assert kernel.livepatch("other") is None


def test_core(tmp_path: Path) -> None:
    kernel = LinuxKernel(tmp_path)
    assert kernel.core(KID) is None
    folder = tmp_path / f"sys/module/ksplice_{KID}/ksplice"
    write(folder / "stage", "preparing\n")
    write(folder / "abort_cause", "no_match\n")
    write(folder / "matched", "loop 3 812 5100\n")
    write(folder / "mismatch", "target=vmlinux function=f offset=0x1\n")
    write(folder / "targets", "loop matched\nromfs waiting\n")
    assert kernel.core(KID) == CoreState(
        stage="preparing",
        abort_cause="no_match",
        matched=(MatchedTarget(target="loop", functions=3, bytes=812, microseconds=5100),),
        mismatch="target=vmlinux function=f offset=0x1",
        targets={"loop": "matched", "romfs": "waiting"},
    )
    write(folder / "targets", "loop\n")
    with pytest.raises(UnexpectedError, match="targets: unexpected line: 'loop'"):
        kernel.core(KID)
    write(folder / "matched", "loop 3\n")
    with pytest.raises(UnexpectedError, match="matched: unexpected line: 'loop 3'"):
        kernel.core(KID)


def test_set_enabled(tmp_path: Path) -> None:
    path = tmp_path / f"sys/kernel/livepatch/{NEW}/enabled"
    write(path, "1")
    LinuxKernel(tmp_path).set_enabled(NEW, enabled=False)
    assert path.read_text() == "0"
    with pytest.raises(UnexpectedError, match="none/enabled: writing 1: No such file"):
        LinuxKernel(tmp_path).set_enabled("none", enabled=True)


def test_blockers(tmp_path: Path) -> None:
    for pid, tid, state, comm in ((812, 813, 0, "cat"), (7, 7, 1, "init"), (9, 9, -1, "sh")):
        task = tmp_path / f"proc/{pid}/task/{tid}"
        write(task / "patch_state", f"{state}\n")
        write(task / "comm", f"{comm}\n")
    write(
        tmp_path / "proc/812/task/813/stack",
        "[<0>] do_fcntl+0x1/0x2\n[<0>] __x64_sys_fcntl+0x9/0xa0 [mod]\n",
    )
    kernel = LinuxKernel(tmp_path)
    assert kernel.blockers(CORE, patched=False) == (
        Conflict(pid=813, command="cat", stack="do_fcntl < __x64_sys_fcntl"),
    )
    assert kernel.blockers(CORE, patched=True) == (Conflict(pid=7, command="init", stack=""),)


def test_idle_tasks_are_those_that_the_core_shows(tmp_path: Path) -> None:
    """They are not in /proc; whose stacks had no room has none."""
    write(
        tmp_path / f"sys/module/{CORE}/ksplice/conflicts",
        "812 do_fcntl cat\n\tdo_fcntl+0x1/0x2\n"
        "0 cpu_startup_entry swapper/0\n\tschedule_idle+0x20/0x30\n\tcpu_startup_entry+0x1/0x2\n"
        "0 - swapper/11\n",
    )
    assert LinuxKernel(tmp_path).blockers(CORE, patched=False) == (
        Conflict(pid=0, command="swapper/0", stack="schedule_idle < cpu_startup_entry"),
        Conflict(pid=0, command="swapper/11", stack=""),
    )


def test_thousands_of_blockers_are_told_by_a_thousand(tmp_path: Path) -> None:
    """With all their stacks, they would exceed the size of a bus message."""
    for tid in range(1, MAX_BLOCKERS + 100):
        write(tmp_path / f"proc/1/task/{tid}/patch_state", "0\n")
    found = LinuxKernel(tmp_path).blockers(CORE, patched=False)
    assert len({conflict.pid for conflict in found}) == MAX_BLOCKERS == 1000


def test_text_that_is_no_id_leads_nowhere(host: Host, tmp_path: Path) -> None:
    """A caller may pass any text as an id: it never makes a path outside sysfs."""
    root = tmp_path / "root"
    for name in ("enabled", "transition"):
        write(root / f"sys/kernel/livepatch/{NEW}/{name}", "1\n")
        write(root / f"tmp/evil_new/{name}", "1\n")
    evil = f"{KID}_new/../../../../tmp/evil"
    assert LinuxKernel(root).livepatch(f"ksplice_{evil}_new") is not None
    host.kernel = LinuxKernel(root)  # type: ignore[assignment]
    with pytest.raises(NoSuchUpdateError, match="no update of this id"):
        host.new_engine().get_update(evil)
