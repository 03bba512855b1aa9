# SPDX-License-Identifier: GPL-2.0-only
"""Keeps a guest whose test failed, so that one can log in: ``make vm T=... KEEP=1``."""

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO

import pytest

from ksplicd.errors import LabError
from ksplicd.lab.guest import Guest
from ksplicd.lab.running_guest import RunningGuest
from ksplicd.lab.snapshot import Snapshot

REPORTS: Final = pytest.StashKey[list[pytest.TestReport]]()
"""How a test went so far; ``conftest.py`` keeps it."""
KEEP: Final = bool(os.environ.get("KSPLICE_KEEP"))
LOGGED_OUT: Final = "[logged out]"
"""What the console says when its shell ends; another one starts."""
_SHELL: Final = (
    "systemctl is-active -q console-shell || systemd-run -q --unit=console-shell"
    " -p TTYPath=/dev/ttyS0 -p StandardInput=tty-force -p StandardOutput=tty -p StandardError=tty"
    " -E TERM=linux -E HOME=/root --working-directory=/root"
    f" sh -c 'while :; do bash -li; echo; echo \"{LOGGED_OUT}\"; done'"
)


def stay(
    guest: RunningGuest, why: str, *, out: TextIO = sys.stderr, end: TextIO = sys.stdin
) -> None:
    """Say how to log in to ``guest``, and wait until the user lets it go."""
    python = shlex.quote(sys.executable)
    out.write(f"\n{why.rstrip()}\n\n")
    try:
        socket = open_console(guest)
    except LabError as e:
        out.write(f"The guest does not answer, and is not kept: {e}\n")
        return
    login = f"cd {shlex.quote(str(Path.cwd()))} && {python} -m tests.tools.login {socket}"
    out.write(
        "The guest of this test is kept.\n"
        f"    log in:  {login}\n"
        f"    or:      echo 'dmesg | tail' | ({login})\n"
        f"    end it:  Enter here, or kill {os.getpid()}\n"
    )
    out.flush()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        wait_for_line(end)
    signal.signal(signal.SIGTERM, before)


def open_console(guest: RunningGuest) -> Path:
    """Start a shell on the guest's serial console; return the socket that leads there."""
    guest.run(_SHELL)
    return guest._qemu.console_socket


def wait_for_line(end: TextIO) -> None:
    """Wait for a line of somebody at a terminal; without one, for a signal."""
    if end.isatty():
        end.readline()
    else:
        threading.Event().wait()


@contextlib.contextmanager
def guest_for(request: pytest.FixtureRequest, snapshot: Snapshot) -> Iterator[Guest]:
    """Restore a guest for a test."""
    with Guest(snapshot) as guest:
        yield guest
        stay_if_failed(request, guest)


def stay_if_failed(request: pytest.FixtureRequest, guest: Guest) -> bool:
    """Have ``guest`` stay when its test has failed, if that is wanted; tell whether it has."""
    failed = [report for report in request.node.stash.get(REPORTS, []) if report.failed]
    if KEEP and failed:
        stay(guest, f"{failed[0].nodeid}\n{failed[0].longreprtext}")
    return bool(failed)


@contextlib.contextmanager
def kept(guest: RunningGuest) -> Iterator[None]:
    """Have ``guest`` stay when what is done with it fails."""
    try:
        yield
    except Exception as e:
        if KEEP:
            stay(guest, f"{type(e).__name__}: {e}")
        raise
