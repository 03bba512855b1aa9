# SPDX-License-Identifier: GPL-2.0-only
"""Processes of the private bus's programs, forked from one that has their modules.

To import these takes a process four times as long as a test of the daemon takes it otherwise.
``python -m tests.support.bus.forks FD`` forks one for each request on the socket; a reply has its
process id, and later comes how it ended.
"""

import atexit
import functools
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any, Final

ROOT: Final = Path(__file__).parents[3]
DAEMON: Final = "tests.support.bus.serve"
POLKIT: Final = "tests.support.bus.polkit"
_MAX: Final = 1 << 17


class Fork:
    """A process, with what ``subprocess.Popen`` has for one."""

    def __init__(self, forks: "Forks", pid: int) -> None:
        self.pid = pid
        self._forks = forks

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        self._forks.read(0)
        return self._forks.ended.get(self.pid)

    def wait(self, timeout: float) -> int:
        """Wait for the end; raises ``TimeoutExpired``."""
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            left = end - time.monotonic()
            if left < 0:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            self._forks.read(left)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """The process that forks, and how those that it has forked ended."""

    def __init__(self) -> None:
        self.ended: dict[int, int] = {}
        self._end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            argv = [sys.executable, "-m", __name__, str(other.fileno())]
            self._process = subprocess.Popen(argv, cwd=ROOT, pass_fds=[other.fileno()])
        atexit.register(self.close)

    def close(self) -> None:
        """End it, but none that it has forked."""
        self._end.close()
        self._process.wait()

    def start(self, module: str, argv: Sequence[str], env: Mapping[str, str], output: int) -> Fork:
        """Run a module with ``argv``; ``output`` is the descriptor for all that it writes."""
        request = json.dumps({"module": module, "argv": argv, "env": dict(env)}).encode()
        socket.send_fds(self._end, [request], [output])
        while (pid := self.read(None)) is None:
            pass
        return Fork(self, pid)

    def read(self, seconds: float | None) -> int | None:
        """Wait for messages so long; return the process id that one brings, if one does."""
        self._end.settimeout(seconds)
        try:
            while said := self._end.recv(_MAX):
                message = json.loads(said)
                if "status" not in message:
                    return int(message["pid"])
                self.ended[message["pid"]] = message["status"]
                self._end.settimeout(0)
        except (TimeoutError, BlockingIOError):
            return None
        raise ChildProcessError("the process that forks has ended")


@functools.cache
def forks() -> Forks:
    """Return the one of this process; it ends with it."""
    return Forks()


# --- the process that forks ----------------------------------------------------------------------


def serve(end: socket.socket, programs: Mapping[str, Callable[..., int | None]]) -> int:
    """Fork for each request; return the exit status, in a forked process that of its program."""
    waker, woken = socket.socketpair()
    for one in (waker, woken):
        one.settimeout(0)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno())
    with DefaultSelector() as selector:
        selector.register(end, EVENT_READ)
        selector.register(woken, EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if woken in ready:
                woken.recv(_MAX)
                tell_ends(end)
            if end not in ready:
                continue
            data, fds, _, _ = socket.recv_fds(end, _MAX, 1)
            if not data:
                return 0
            request = json.loads(data)
            if pid := os.fork():
                os.close(fds[0])
                end.send(json.dumps({"pid": pid}).encode())
                continue
            break
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for one in (waker, woken, end):
        one.close()
    return become(request, fds[0], programs) or 0


def tell_ends(end: socket.socket) -> None:
    """Say of each process that has ended how it did."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        code = os.waitstatus_to_exitcode(status)
        end.send(json.dumps({"pid": pid, "status": code}).encode())


def become(
    request: Any, output: int, programs: Mapping[str, Callable[..., int | None]]
) -> int | None:
    """Be what is asked for."""
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = [request["module"], *request["argv"]]
    return programs[request["module"]](*request["argv"])


def main(number: str) -> int:
    daemon, polkit = (importlib.import_module(name) for name in (DAEMON, POLKIT))

    def run_daemon(address: str, folder: str, *way: str) -> int:
        return int(daemon.main(address, Path(folder), *way))

    with socket.socket(fileno=int(number)) as end:
        return serve(end, {DAEMON: run_daemon, POLKIT: polkit.main})


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
