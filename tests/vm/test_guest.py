# SPDX-License-Identifier: GPL-2.0-only
"""The guest itself: what every other test in this folder relies on.

The time limits are generous, since the machine may be busy; the times are printed.
"""

import contextlib
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from ksplicd.errors import GuestPanicError, LabError
from ksplicd.lab.guest import Guest
from ksplicd.lab.snapshot import Snapshot
from tests.support.kernels.stock import RELEASE
from tests.support.waiting import wait_for

T = TypeVar("T")


def timed(what: str, action: Callable[[], T], *, limit: float) -> T:
    start = time.monotonic()
    answer = action()
    report(what, time.monotonic() - start, limit=limit)
    return answer


def report(what: str, took: float, *, limit: float) -> None:
    sys.stdout.write(f"{what}: {took:.3f} s\n")
    assert took < limit, what


def qemu_processes() -> set[str]:
    """The QEMU processes that this process has started."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = {pid for path in children for pid in path.read_text().split()}
    return {pid for pid in pids if "qemu" in Path(f"/proc/{pid}/comm").read_text()}


def test_runs_the_stock_kernel_under_systemd(guest: Guest) -> None:
    assert guest.run(["uname", "-r"]).out.strip() == RELEASE
    assert guest.run("systemctl is-system-running").out == "running\n"
    assert "nokaslr" not in guest.get("/proc/cmdline").decode()
    assert guest.run("ls /sys/class/net").out == "lo\n"


def test_answers_at_once_after_restore(snapshot: Snapshot) -> None:
    start = time.monotonic()
    with Guest(snapshot):
        report("restore", time.monotonic() - start, limit=5)


def test_command_status_output_and_input(guest: Guest) -> None:
    timed("first command", lambda: guest.run(["true"]), limit=5)
    timed("command", lambda: guest.run(["true"]), limit=2)
    result = guest.run("cat; echo two >&2; exit 3", check=False, stdin=b"one")
    assert (result.status, result.out, result.err) == (3, "one", "two\n")
    assert guest.run("kill -9 $$", check=False).status == -9
    with pytest.raises(LabError, match="exit status 3"):
        guest.run("exit 3")
    with pytest.raises(LabError, match="FileNotFoundError"):
        guest.run(["/no/such/program"])


def test_command_that_does_not_end_is_killed(guest: Guest) -> None:
    with pytest.raises(LabError, match=r"sleep 1000.*no end after 0.5 s"):
        guest.run("echo begun; sleep 1000", timeout=0.5)
    assert guest.run("pgrep -x sleep", check=False).status == 1


def test_copies_8_mb_in_and_out(guest: Guest, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(8 << 20)
    timed("put 8 MiB", lambda: guest.put("/root/new/data", data), limit=10)
    assert timed("get 8 MiB", lambda: guest.get("/root/new/data"), limit=10) == data
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho ran\n")
    script.chmod(0o755)
    guest.put("/root/script", script)
    assert guest.run(["/root/script"]).out == "ran\n"


def test_tree_is_laid_over_the_root(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir(mode=0o700)
    (tmp_path / "tmp/file").write_text("x")
    (tmp_path / "tmp/link").symlink_to("file")
    guest.put_tree(tmp_path)
    assert guest.run("stat -c '%a %U' /tmp; cat /tmp/link").out == "1777 root\nx"


def test_reset_forgets_changes(guest: Guest) -> None:
    guest.run("touch /root/x; modprobe dummy; echo marker > /dev/kmsg")
    assert "marker" in guest.kernel_log()
    timed("reset", guest.reset, limit=5)
    assert guest.run("test -e /root/x", check=False).status == 1
    assert "dummy" not in guest.run("lsmod").out
    assert "marker" not in guest.kernel_log()


def test_clock_is_right_and_random_numbers_differ(guest: Guest) -> None:
    assert abs(float(guest.run("date +%s").out) - time.time()) < 5
    first = guest.get("/proc/sys/kernel/random/uuid")
    guest.reset()
    assert guest.get("/proc/sys/kernel/random/uuid") != first


def test_panic_is_told_at_once(guest: Guest) -> None:
    def panic() -> str:
        with pytest.raises(GuestPanicError, match="Kernel panic") as caught:
            guest.run("echo c > /proc/sysrq-trigger")
        return str(caught.value)

    assert "sysrq triggered crash" in timed("panic", panic, limit=10)
    guest.reset()
    assert guest.run(["true"]).status == 0


def test_power_off_is_no_panic(guest: Guest) -> None:
    with pytest.raises(LabError, match="ended by itself") as caught:
        guest.run("poweroff -f")
    assert not isinstance(caught.value, GuestPanicError)


def test_reboot_keeps_the_disk(guest: Guest) -> None:
    guest.run("echo kept > /root/x; sync")
    before = guest.get("/proc/sys/kernel/random/boot_id")
    timed("reboot", lambda: guest.reboot(crash=True), limit=120)
    assert guest.get("/root/x") == b"kept\n"
    assert guest.get("/proc/sys/kernel/random/boot_id") != before


def test_nothing_is_left_after_an_exception(snapshot: Snapshot) -> None:
    before = qemu_processes()
    guest = Guest(snapshot)

    def fail() -> None:
        with guest:
            assert len(qemu_processes() - before) == 1
            raise ArithmeticError("on purpose")

    with pytest.raises(ArithmeticError, match="on purpose"):
        fail()
    assert qemu_processes() == before
    with pytest.raises(LabError, match="the guest ended with its QEMU"):
        guest.run(["true"])


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder in which sockets may be: their paths have 107 bytes at most."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_nothing_is_left_when_we_are_killed(snapshot: Snapshot, short_path: Path) -> None:
    """Even SIGKILL, which leaves us no time to clean up, ends QEMU."""
    program = short_path / "program.py"
    program.write_text(
        "import pickle, sys, time\n"
        "from pathlib import Path\n"
        "from ksplicd.lab.guest import Guest\n"
        "with Guest(pickle.loads(Path(sys.argv[1]).read_bytes())):\n"
        "    print('up', flush=True)\n"
        "    time.sleep(60)\n"
    )
    (short_path / "snapshot").write_bytes(pickle.dumps(snapshot))
    environment = {**os.environ, "TMPDIR": str(short_path), "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(
        [sys.executable, program, short_path / "snapshot"], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert running_in(short_path)
        process.kill()
    wait_for(lambda: not running_in(short_path), pause=0.05)


def running_in(folder: Path) -> list[str]:
    """The QEMU processes whose sockets are below ``folder``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes().split(b"\0")
            if b"qemu" in command[0] and f"{folder}/".encode() in b" ".join(command):
                found.append(path.parent.name)
    return found


def test_two_guests_at_once(snapshot: Snapshot) -> None:
    with Guest(snapshot) as one, Guest(snapshot) as two:
        one.put("/root/x", b"1")
        assert two.run("test -e /root/x", check=False).status == 1
