# SPDX-License-Identifier: GPL-2.0-only
"""A guest that runs: run commands in it, copy files, read its log.

Commands run one at a time, as root, without a terminal.  A command that leaves something running
must not leave it our pipes: use ``systemd-run``, or redirect its output.  What starts and ends a
guest is in ``snapshot.py`` and ``guest.py``.
"""

import io
import re
import secrets
import shlex
import socket
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ksplicd.errors import GuestPanicError, LabError
from ksplicd.lab import agent
from ksplicd.lab.qemu import Qemu

_RUN_TIMEOUT: Final = 120.0
BOOT_TIMEOUT: Final = 240.0
_GRACE: Final = 20.0
"""How much longer than the agent itself we wait, in seconds; the host may be busy."""
_TAIL: Final = 2000
_PANIC_LINES: Final = 100
# arch/x86/mm/fault.c, arch/x86/kernel/dumpstack.c and kernel/panic.c of the kernel
_COMPLAINT: Final = re.compile(r"BUG: |Oops: |general protection fault|Kernel panic")
_UNRELIABLE: Final = re.compile(r"\]  \? ")
_RECEIVE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a command ended."""

    status: int
    """Exit status; negative for a signal."""
    out: str
    err: str


class RunningGuest:
    """A guest that answers, whatever started it.  Every method raises ``LabError``, and
    ``GuestPanicError`` as soon as the guest's kernel has panicked.
    """

    def __init__(self, qemu: Qemu) -> None:
        self._qemu = qemu
        self._last_id = 0

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        timeout: float = _RUN_TIMEOUT,
        stdin: bytes = b"",
    ) -> Result:
        """Run a command, or a line for the shell, and return how it ended.

        ``check``: an exit status other than 0 is an error.  After ``timeout`` seconds the command
        is killed, which is an error too.
        """
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        shown = command if isinstance(command, str) else shlex.join(command)
        head, body = self._call(
            {"op": "exec", "argv": argv, "timeout": timeout}, stdin, timeout=timeout + _GRACE
        )
        out = body[: head["out"]].decode(errors="replace")
        err = body[head["out"] :].decode(errors="replace")
        if head["status"] is None:
            raise LabError(f"guest: {shown}: no end after {timeout:g} s\n{(out + err)[-_TAIL:]}")
        if check and head["status"] != 0:
            said = (out + err)[-_TAIL:]
            raise LabError(f"guest: {shown}: exit status {head['status']}\n{said}")
        return Result(status=head["status"], out=out, err=err)

    def put(self, path: str, content: bytes | Path, *, mode: int | None = None) -> None:
        """Write a file; the mode is that of the file given, or 0644.  Makes its folder."""
        if isinstance(content, Path):
            mode = content.stat().st_mode & 0o7777 if mode is None else mode
            content = content.read_bytes()
        self._call({"op": "put", "path": path, "mode": 0o644 if mode is None else mode}, content)

    def put_tree(self, root: Path) -> None:
        """Copy everything below ``root`` over the guest's ``/``, owned by root."""
        self.run(["tar", "-x", "-C", "/", "--no-same-owner"], stdin=pack_tree(root))

    def get(self, path: str) -> bytes:
        """Return the contents of a file."""
        return self._call({"op": "get", "path": path})[1]

    def read(self, path: str, *, if_there: bool = False) -> str:
        """Return the text of a file, stripped, at a tenth of the cost of ``cat``.

        ``if_there``: empty when it cannot be read, which is an error otherwise.
        """
        head = {"op": "get", "path": path, "if_there": if_there}
        return self._call(head)[1].decode(errors="replace").strip()

    def console(self) -> str:
        """Return what came over the serial console since this guest was started or restored."""
        return self._qemu.console()

    def kernel_log(self) -> str:
        """Return the kernel's messages, without times, since the guest was restored."""
        return self.run(["dmesg", "--notime"]).out

    def wait_booted(self) -> None:
        """Wait until systemd, if it runs, has nothing left to do; a failed unit is an error."""
        self._call({"op": "hello", "time": time.time()}, _seed(), timeout=BOOT_TIMEOUT)
        if self._qemu.machine.is_bare:
            return
        wait = ["systemctl", "is-system-running", "--wait"]
        state = self.run(wait, check=False, timeout=BOOT_TIMEOUT).out.strip()
        if state != "running":
            failed = self.run(["systemctl", "--failed", "--no-pager"], check=False).out
            raise LabError(f"the guest booted to the state {state!r}\n{failed}")

    def greet(self) -> None:
        """Set the clock, and make the random numbers differ from those of other guests."""
        self._call({"op": "hello", "time": time.time()}, _seed())

    def _call(
        self, head: dict[str, Any], body: bytes = b"", *, timeout: float = _RUN_TIMEOUT
    ) -> tuple[dict[str, Any], bytes]:
        self._last_id += 1
        deadline = time.monotonic() + timeout
        connection = _Connection(self._qemu.agent, deadline)
        try:
            connection.send(agent.pack_frame({**head, "id": self._last_id}, body))
            reply, data = agent.read_frame(connection.read_exactly)
            # the answer to a request that we gave up on may come first
            while reply["id"] != self._last_id:
                reply, data = agent.read_frame(connection.read_exactly)
        except TimeoutError as e:
            tail = self._qemu.console_tail()
            raise LabError(f"the guest did not answer within {timeout:g} s\n{tail}") from e
        except OSError as e:
            raise self._why_ended() from e
        if "error" in reply:
            raise LabError(f"guest: {head['op']} {head.get('path', '')}: {reply['error']}")
        return reply, data

    def _why_ended(self) -> LabError:
        events = self._qemu.qmp.take_events()
        reasons = [event.data["reason"] for event in events if event.name == "SHUTDOWN"]
        if panic := panic_report(self._qemu.console()):
            return GuestPanicError(f"the guest's kernel panicked\n{panic}")
        ended = f"by itself ({reasons[-1]})" if reasons else "with its QEMU"
        return LabError(f"the guest ended {ended}\n{self._qemu.console_tail()}")


class _Connection:
    """The socket to the agent until a deadline; raises ``TimeoutError`` and ``OSError``."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._socket = connection
        self._deadline = deadline

    def send(self, data: bytes) -> None:
        self._socket.settimeout(self._left())
        self._socket.sendall(data)

    def read_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._socket.settimeout(self._left())
            chunk = self._socket.recv(min(size - len(data), _RECEIVE))
            if not chunk:
                raise ConnectionResetError("QEMU closed the agent's socket")
            data += chunk
        return bytes(data)

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.001)


def panic_report(console: str) -> str:
    """Return what a panicking kernel said, from its first complaint on; empty without a panic.

    Stack entries that the kernel itself marks as unreliable are left out.
    """
    if "Kernel panic" not in console:
        return ""
    lines = [line for line in console.splitlines() if not _UNRELIABLE.search(line)]
    first = next(i for i, line in enumerate(lines) if _COMPLAINT.search(line))
    return "\n".join(lines[first:][:_PANIC_LINES])


def pack_tree(root: Path) -> bytes:
    """Return a tar archive of the files below ``root``, owned by root.

    It has no entries for folders, so that those that the guest has keep their modes.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(root.rglob("*")):
            if path.is_symlink() or path.is_file():
                info = archive.gettarinfo(path, arcname=str(path.relative_to(root)))
                info.uid = info.gid = 0
                info.uname = info.gname = "root"
                if info.isreg():
                    with path.open("rb") as f:
                        archive.addfile(info, f)
                else:
                    archive.addfile(info)
    return buffer.getvalue()


def _seed() -> bytes:
    return secrets.token_bytes(64)
