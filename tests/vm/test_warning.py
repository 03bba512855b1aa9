# SPDX-License-Identifier: GPL-2.0-only
"""An update that warns, hangs or oopses on the stock kernel is noticed, and undone by policy."""

import json
import re
import signal
import time

import pytest

from ksplicd.host.report.journal import Outcome
from ksplicd.lab.guest import Guest
from tests.support.guest.hand import Edit, is_clean
from tests.support.guest.host import Host
from tests.support.guest.journal import read_journal
from tests.support.guest.maker import GETFD, Maker
from tests.support.waiting import wait_in_guest

KID = "warns001"
MM = "#include <linux/mm.h>\n"
EDITS = (
    Edit("fs/fcntl.c", MM, f"{MM}#include <linux/jiffies.h>\n"),
    Edit(
        "fs/fcntl.c", GETFD,
        "\t\tWARN_ON(arg == 4711);\n"
        # not mdelay(): its loops are calibrated by a clock that TCG does not keep
        "\t\tfor (unsigned long end = jiffies + 6 * HZ;"
        " arg == 4712 && time_before(jiffies, end);)\n\t\t\tcpu_relax();\n"
        f"\t\tif (arg == 4713)\n\t\t\t(void)READ_ONCE(*(int *)arg);\n{GETFD}",
    ),
)  # fmt: skip
WARN = "python3 -c 'import fcntl; fcntl.fcntl(0, fcntl.F_GETFD, 4711)'"
HANG = WARN.replace("4711", "4712")
OOPS = WARN.replace("4711", "4713")


@pytest.mark.suites("bookworm", "trixie")
def test_warning_of_a_new_update(installed_guest: Guest, maker: Maker) -> None:
    guest, host = installed_guest, Host(installed_guest, maker.key.public)
    assert host.apply(maker.make(KID, *EDITS)) == ("", "")
    # what a user writes is not the kernel's word
    spoofed = f"WARNING: CPU: 0 PID: 1 at x:1 do_fcntl+0x1/0x2 [ksplice_{KID}_new]"
    guest.run(f"echo '<4>{spoofed}' > /dev/kmsg; echo '<0>{spoofed}' > /dev/kmsg")
    time.sleep(1)
    assert host.ksplice("status --check", check=False).status == 0
    guest.run(WARN)
    wait_in_guest(lambda: host.ksplice("status --check", check=False).status == 2)
    said = host.ksplice("status").out
    assert "kernel_warning: the kernel's log names do_fcntl" in said
    assert "at fs/fcntl.c:" in said
    find = f"-o json MESSAGE_ID={Outcome.KERNEL_WARNING.value}"
    (entry,) = read_journal(guest, find).splitlines()
    told = json.loads(entry)
    assert told["KSPLICE_FUNCTION"].startswith("do_fcntl")
    assert told["KSPLICE_TARGET"] == f"ksplice_{KID}_new"

    guest.put("/etc/ksplicd/ksplicd.conf", b"[ksplicd]\nundo-on-warning = yes\n")
    guest.run("systemctl reload ksplicd")
    assert host.undo(KID) == ("", "")
    assert host.try_(f"apply --raw-errors {KID}") == ("", "")
    # lockups are looked for every two fifths of a second now, and told after two
    guest.run("sysctl -q kernel.watchdog_thresh=1")
    guest.run(HANG)
    wait_in_guest(lambda: is_clean(guest))
    history = host.ksplice("history -n 2").out
    assert "undo-on-warning: watchdog: BUG: soft lockup - " in history
    assert "uid 0 (daemon)" in history

    assert host.try_(f"apply --raw-errors {KID}") == ("", "")
    guest.run("sysctl -q kernel.panic_on_oops=0")  # the lab's kernel argument
    assert guest.run(OOPS, check=False).status in (-signal.SIGKILL, 128 + signal.SIGKILL)
    wait_in_guest(lambda: is_clean(guest))
    assert "undo-on-warning: BUG: " in host.ksplice("history -n 2").out
    assert re.search(r"^Oops: .*^RIP: 0010:do_fcntl\b", guest.kernel_log(), re.M | re.S)
    assert "deprecated" not in guest.kernel_log()  # reading the log with CAP_SYS_ADMIN is
