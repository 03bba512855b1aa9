# SPDX-License-Identifier: GPL-2.0-only
"""A program that keeps a task in do_fcntl."""

from typing import Final

from ksplicd.lab.running_guest import RunningGuest
from tests.support.guest.hand import wait_for_stack

BLOCKER: Final = """\
import fcntl, os, time
f = open("/root/lock", "w")
fcntl.lockf(f, fcntl.LOCK_EX)
if os.fork() == 0:
    fcntl.lockf(open("/root/lock", "w"), fcntl.LOCK_EX)  # sleeps in do_fcntl
time.sleep(1000)
"""


def start_blocker(guest: RunningGuest) -> None:
    """Let a task of the unit ``blocker`` sleep in do_fcntl."""
    guest.put("/root/blocker.py", BLOCKER.encode())
    guest.run("systemd-run -u blocker -q /usr/bin/python3 -I -S /root/blocker.py")
    wait_for_stack(guest, "do_fcntl")
