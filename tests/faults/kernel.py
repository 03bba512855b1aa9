# SPDX-License-Identifier: GPL-2.0-only
"""A kernel in another process, behind the real ``LinuxKernel``.

The simulator (tests/unit/host) lives in the process that runs the cases and so outlives the one
that is killed.  It shows itself as a sysfs in a folder; the two system calls for modules come over
a socket with the sealed memfd that holds the module.  A process that is killed in such a call is
killed before the kernel has acted, at ``sendmsg``, or after it, at ``recvfrom``.
"""

import errno
import fcntl
import json
import os
import platform
import shutil
import socket
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ksplicd.errors import InUseError, KspliceError, ModulePresentError, UnexpectedError
from ksplicd.host.kernel.linux import LinuxKernel, SystemCalls
from ksplicd.model import Kernel
from tests.faults.inject import LIFT
from tests.support.bundles import samples
from tests.support.host.simulator import Simulator

KERNEL: Final = Kernel(
    release=platform.uname().release, build_id=samples.KERNEL.build_id, version="#1 SMP a test"
)
"""``uname`` can not be simulated without root; the rest is the simulator's."""

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_ERRNOS: Final[dict[type[KspliceError], int]] = {
    ModulePresentError: errno.EEXIST,
    InUseError: errno.EBUSY,
    UnexpectedError: errno.EINVAL,
}
_MAX_MESSAGE: Final = 1 << 20


class SysfsKernel:
    """A simulator that shows itself as ``root``/sys and ``root``/proc."""

    def __init__(self, root: Path, simulator: Simulator) -> None:
        """Take over what is in ``root``."""
        self.root = root
        self.simulator = simulator

    def show(self) -> None:
        """Write the tree anew."""
        sys, simulator = self.root / "sys", self.simulator
        shutil.rmtree(sys, ignore_errors=True)
        _write(self.root / "proc/sys/kernel/random/boot_id", simulator.boot_id())
        note = bytes.fromhex(simulator.build_id())
        header = b"".join(n.to_bytes(4, "little") for n in (4, len(note), 3))
        (sys / "kernel").mkdir(parents=True)
        (sys / "kernel/notes").write_bytes(header + b"GNU\0" + note)
        (sys / "kernel/livepatch").mkdir()
        for name in simulator.modules():
            _write(sys / "module" / name / "initstate", "live")
            core = simulator.core(name.removeprefix("ksplice_"))
            if core is not None:
                folder = sys / "module" / name / "ksplice"
                _write(folder / "stage", core.stage)
                _write(folder / "abort_cause", core.abort_cause)
                _write(folder / "mismatch", core.mismatch)
                rows = (
                    f"{m.target} {m.functions} {m.bytes} {m.microseconds}" for m in core.matched
                )
                _write(folder / "matched", "\n".join(rows))
                rows = (f"{target} {state}" for target, state in core.targets.items())
                _write(folder / "targets", "\n".join(rows))
        for name in simulator.livepatches():
            livepatch = simulator.livepatch(name)
            assert livepatch is not None
            folder = sys / "kernel/livepatch" / name
            _write(folder / "enabled", f"{livepatch.enabled:d}")
            _write(folder / "transition", f"{livepatch.transition:d}")

    def take_writes(self) -> None:
        """Do what was written to an ``enabled``."""
        for name in self.simulator.livepatches():
            livepatch = self.simulator.livepatch(name)
            path = self.root / "sys/kernel/livepatch" / name / "enabled"
            wanted = path.read_text().strip() == "1"
            if livepatch is not None and livepatch.enabled is not wanted:
                with suppress(KspliceError):
                    self.simulator.set_enabled(name, enabled=wanted)
        self.show()

    def serve(self, end: socket.socket) -> Any:
        """Answer the process at the other end until it reports or ends.

        Returns the report or None.
        """
        report = None
        with suppress(ConnectionError):  # it was killed
            while True:
                data, fds, _, _ = socket.recv_fds(end, _MAX_MESSAGE, 1)
                if not data:
                    break
                call, *args = json.loads(data)
                if call == "report":
                    (report,) = args
                    break
                answer = self._answer(call, args, fds)
                end.send(json.dumps(answer).encode())
        self.take_writes()
        return report

    def _answer(self, call: str, args: list[Any], fds: list[int]) -> int:
        self.take_writes()
        try:
            match call, args:
                case "finit", [parameters]:
                    self._load(fds[0], parameters)
                case "delete", [name]:
                    self.simulator.unload_module(name)
                case "complete", []:
                    self.simulator.complete()
                case _:
                    assert call == "sync"
        except KspliceError as e:
            return _ERRNOS.get(type(e), errno.ENOEXEC)
        finally:
            self.show()
        return 0

    def _load(self, fd: int, parameters: str) -> None:
        place = str(Path(f"/proc/self/fd/{fd}").readlink())
        name = place.removeprefix("/memfd:").removesuffix(" (deleted)")
        with open(fd, "rb") as f:
            assert fcntl.fcntl(f, fcntl.F_GET_SEALS) & _SEALS == _SEALS  # and F_SEAL_EXEC
            f.seek(0)
            data = f.read()
        self.simulator.load_module(data, name, parameters)


class _RemoteCalls(SystemCalls):
    """The two system calls, over the socket."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def ask(self, *words: object, fds: Collection[int] = ()) -> int:
        socket.send_fds(self._end, [json.dumps(words).encode()], list(fds))
        answer = json.loads(self._end.recv(_MAX_MESSAGE))
        assert isinstance(answer, int)
        return answer

    def finit_module(self, fd: int, params: bytes, flags: int) -> int:
        assert flags == 0
        return self.ask("finit", params.decode(), fds=[fd])

    def delete_module(self, name: bytes, flags: int) -> int:
        assert flags == os.O_NONBLOCK
        return self.ask("delete", name.decode())


class RemoteKernel(LinuxKernel):
    """The real door, to a kernel in the process at the other end of a socket."""

    def __init__(self, root: Path, end: socket.socket) -> None:
        self._remote = _RemoteCalls(end)
        super().__init__(root, self._remote, sleep=lambda seconds: None)

    def set_enabled(self, name: str, *, enabled: bool) -> None:
        """Write to sysfs; a real kernel acts at once, ours when it is asked next."""
        super().set_enabled(name, enabled=enabled)
        self._remote.ask("sync")

    def complete(self) -> None:
        """Have every transition end."""
        self._remote.ask("complete")

    def report(self, value: object) -> None:
        """Tell the other end how it went."""
        socket.send_fds(self._remote._end, [json.dumps(["report", value]).encode()], [])

    def lift(self) -> None:
        """Have the fault end that happens to this process."""
        self.report(LIFT)
        self._remote._end.recv(1)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
