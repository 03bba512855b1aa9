# SPDX-License-Identifier: GPL-2.0-only
"""Run a function in a process of its own, with a fault at one of its system calls.

strace(1) injects: the real code runs on the real kernel, but for one system call that fails with an
error without being made, or before which the process is killed.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PATIENCE: Final = 20.0
"""Seconds for what takes a hundredth of one on an idle machine."""

KILL: Final = "SIGKILL"
ERRORS: Final = ("ENOSPC", "EIO", "EMFILE", "ENOMEM")

_ERRNOS: Final = {
    "ENOSPC": ["write", "pwrite64", "openat", "mkdir", "rename", "fsync"],
    "EMFILE": ["openat", "memfd_create"],
}
"""The calls that may give these (their man pages); any may give the others."""

_LASTING: Final = {**_ERRNOS, "EIO": ["read", "pread64", "write", "fsync"]}
"""The calls that go on failing: a disk that is full or bad, a table of descriptors that is full."""

_NOT_OURS: Final = re.compile(r"sendmsg|recvfrom|exit_group|rt_sig.*|futex|clock_.*|get.*id|uname")
"""The socket stands for calls that the simulator makes fail itself; the others cannot fail."""

_MEMORY: Final = frozenset({"mmap", "mremap", "munmap", "brk", "madvise"})

_CALL: Final = re.compile(r"[a-z_0-9]+(?=\()")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens at the ``number``-th call of ``call``, from 1."""

    call: str
    number: int
    what: str
    is_lasting: bool = False
    """Whether it happens at every later call too, until it is lifted."""
    times: int = 1
    """At how many calls in a row it happens, else."""
    path: str = ""
    """The file that it befalls, whatever its name was before; empty: every one."""

    def __str__(self) -> str:
        return f"{self.what} at {self.call} #{self.number}{' and on' * self.is_lasting}"

    @property
    def may_be_missed(self) -> bool:
        """Tell whether it may not come to pass.

        One that lasts may have been lifted before, and the allocator does not always ask for memory
        at the same places.
        """
        return self.is_lasting or self.call in _MEMORY

    @property
    def options(self) -> list[str]:
        """What strace is told."""
        deed = "signal=KILL" if self.what == KILL else f"error={self.what}"
        last = self.number + self.times - 1
        when = f"{self.number}+" if self.is_lasting else f"{self.number}..{last}"
        options = ["-e", f"trace={self.call}", "-e", f"inject={self.call}:{deed}:when={when}"]
        return [*options, "-P", self.path] if self.path else options


Prepare = Callable[[socket.socket], Callable[[], None]]
"""Makes ready and returns what is to be done; both run in the child and end with a report."""

Serve = Callable[[socket.socket], Any]
"""Talks to the child until it reports or ends; returns the report or None."""

LIFT: Final = "lift"
"""A report that asks for the end of the fault; the child waits for a byte then, and goes on."""


def run(
    prepare: Prepare, serve: Serve, fault: Fault | None = None, trace: Path | None = None
) -> Any:
    """Run a child and return its last report; None when it was killed.

    Nothing happens to it before what ``prepare`` returns is called.  ``trace`` gets the system
    calls from there on, with a fault those that it may befall.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            do = prepare(theirs)
            theirs.recv(1)
            do()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    theirs.close()
    tracer = None
    try:
        serve(ours)
        if fault is not None or trace is not None:
            tracer = _attach(pid, fault, trace)
        with contextlib.suppress(BrokenPipeError):  # killed while it waits for this
            ours.send(b"!")
        report = serve(ours)
        if report == LIFT and tracer is not None:
            tracer.terminate()
            tracer.communicate(timeout=PATIENCE)
            tracer = None
            ours.send(b"!")
            report = serve(ours)
        return report
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        ours.close()
        if tracer is not None:
            tracer.communicate(timeout=PATIENCE)


def calls_of(trace: Path) -> Counter[str]:
    """Return how often each system call was made that can be made to fail."""
    found = (_CALL.match(line) for line in trace.read_text().splitlines())
    return Counter(m[0] for m in found if m)


def is_reached(trace: Path) -> bool:
    """Tell whether the fault came to pass."""
    text = trace.read_text()
    return "(INJECTED)" in text or "killed by SIGKILL" in text


def faults_for(calls: Counter[str]) -> list[Fault]:
    """Return every fault: a kill before each call, and each error of each call that may fail.

    What lasts on a real machine comes as a passing error and as one that lasts.
    """
    return [
        Fault(call=call, number=number, what=what, is_lasting=is_lasting)
        for call, count in calls.items()
        for number in range(1, count + 1)
        for what in (KILL, *ERRORS)
        for is_lasting in (False, True)
        if (call in _LASTING.get(what, ()) if is_lasting else _may_befall(what, call))
    ]


def _may_befall(what: str, call: str) -> bool:
    return what == KILL or (call in _ERRNOS[what] if what in _ERRNOS else _may_fail(call))


def _status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def _may_fail(call: str) -> bool:
    return _NOT_OURS.fullmatch(call) is None


def _attach(pid: int, fault: Fault | None, trace: Path | None) -> "subprocess.Popen[bytes]":
    argv = ["strace", "-qq", "-o", str(trace or "/dev/null"), "-p", str(pid)]
    if fault is not None:
        argv += fault.options
    tracer = subprocess.Popen(argv, stderr=subprocess.PIPE)
    end = time.monotonic() + PATIENCE
    while f"TracerPid:\t{tracer.pid}\n" not in (status := _status(pid)):
        if "State:\tZ" in status:  # killed where it waits to begin
            break
        if tracer.poll() is not None:
            _, text = tracer.communicate()
            raise AssertionError(f"strace does not trace: {text.decode()}; {status}")
        assert time.monotonic() < end, "strace does not attach"
        time.sleep(0.001)
    return tracer
