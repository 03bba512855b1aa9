# SPDX-License-Identifier: GPL-2.0-only
"""A program that keeps a task in do_fcntl."""

from typing import Final

BLOCKER: Final = """\
import fcntl, os, time
f = open("/root/lock", "w")
fcntl.lockf(f, fcntl.LOCK_EX)
if os.fork() == 0:
    fcntl.lockf(open("/root/lock", "w"), fcntl.LOCK_EX)  # sleeps in do_fcntl
time.sleep(1000)
"""
