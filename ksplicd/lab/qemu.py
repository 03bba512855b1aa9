# SPDX-License-Identifier: GPL-2.0-only
"""One QEMU process: its command line, its sockets, its end.

QEMU connects to sockets that we listen on, so nothing has to be polled.  It has no network.
It ends with ``close()``, with the guest (a panic resets it, and a reset ends QEMU), and with our
process, even when that is killed.
"""

import contextlib
import functools
import shlex
import shutil
import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, digest_of
from ksplicd.errors import LabError, ToolError
from ksplicd.lab import agent
from ksplicd.lab.image import BARE_INIT, Image
from ksplicd.lab.qmp import Qmp
from ksplicd.run import Process, run, run_any, spawn, wait

QEMU: Final = "qemu-system-x86_64"
TCG: Final = "tcg,thread=single"
"""All processors in one thread: two threads of QEMU 7.2 lose writes to the text (decision 0014)."""

_KERNEL_ARGUMENTS: Final = (
    # An oops is a fault of what is being tested: let no test pass after one.
    *("console=ttyS0", "panic=-1", "oops=panic", "net.ifnames=0", "quiet", "loglevel=3"),
)
_CONNECT_TIMEOUT: Final = 60.0
_PROBE_TIMEOUT: Final = 8.0  # seconds; even under TCG it takes 2
_CONSOLE_TAIL: Final = 40

# The kernel kills a child with PR_SET_PDEATHSIG when the *thread* that started it ends, so all are
# started by one thread, which ends with our process.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="qemu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """What QEMU's two flash chips hold: UEFI and its variables."""

    code: Path
    variables: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The virtual machine: an image and the hardware below it."""

    image: Image
    cpu: str = "qemu64"
    """A QEMU model with flags, as for ``-cpu``; what the kernel patches at boot depends on it."""
    smp: int = 2
    memory: int = 768
    """MiB."""
    arguments: tuple[str, ...] = ()
    """Added to the kernel's command line."""
    is_bare: bool = False
    """Nothing but the agent runs in it, no systemd: it boots in a third of the time."""
    firmware: Firmware | None = None
    """UEFI; without it QEMU's own BIOS starts the kernel."""
    accelerator: str = TCG
    """As ``probe_accelerator()`` returns it; TCG works everywhere."""

    def digest(self) -> str:
        """Return what names a snapshot of this machine."""
        nowhere = Path("/")
        argv = qemu_argv(self, folder=nowhere, disk=nowhere, ram=nowhere, share=True)
        return digest_of(qemu_version(), argv, self.image.identity)


@functools.cache
def qemu_version() -> str:
    """Return QEMU's version; a snapshot is only good for the one that made it."""
    return run([QEMU, "--version"]).decode().splitlines()[0]


def probe_accelerator(cache: Cache, kernel: Path) -> str:
    """Return ``kvm`` when ``kernel`` starts with it on this host, else TCG; asked once a host boot.

    A writable /dev/kvm proves nothing: inside some virtual machines QEMU aborts, or the guest
    never starts.  Without a disk the kernel panics in a moment, which ends QEMU with status 0.
    """
    flags = Path("/proc/cpuinfo").read_text().split()
    if not Path("/dev/kvm").exists() or not {"vmx", "svm"}.intersection(flags):
        return TCG
    argv = [QEMU, "-nodefaults", "-no-user-config", "-machine", "q35", "-accel", "kvm"]
    argv += ["-m", "256", "-cpu", "qemu64", "-display", "none", "-no-reboot"]
    argv += ["-kernel", str(kernel), "-append", "panic=-1 quiet"]

    def probe(new: Path) -> None:
        cache.progress("trying whether KVM works here")
        works = False
        with contextlib.suppress(ToolError):
            works = run_any(argv, timeout=_PROBE_TIMEOUT)[0] == 0
        (new / "answer").write_text("kvm" if works else TCG)

    host = Path("/proc/sys/kernel/random/boot_id").read_text()
    return (
        cache.entry("accelerator", digest_of(host, qemu_version()), probe) / "answer"
    ).read_text()


def qemu_argv(
    machine: Machine, *, folder: Path, disk: Path, ram: Path | None, share: bool
) -> list[str]:
    """Return QEMU's command line.

    ``folder`` has the sockets and what came over the console, ``disk`` is a qcow2 image, ``ram``
    the file of the guest's memory, which is written to only when it is to be shared.  Without a
    file, memory comes in large pages, and is gone at the end.
    """
    image, size = machine.image, f"{machine.memory}M"
    console = f"socket,id=console,path={folder}/console.sock,server=on,wait=off"
    backend = f"memory-backend-file,mem-path={ram}" if ram else "memory-backend-ram"
    memory = f"{backend},id=ram,size={size},share={'on' if share else 'off'}"
    init = [f"init={BARE_INIT}"] if machine.is_bare else []
    return [
        *(QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35,memory-backend=ram", "-accel", machine.accelerator),
        *("-object", memory, "-m", size),
        *("-cpu", machine.cpu, "-smp", str(machine.smp)),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", " ".join([*_KERNEL_ARGUMENTS, *machine.arguments, *init])),
        *("-chardev", f"{console},logfile={folder}/console", "-serial", "chardev:console"),
        *("-drive", f"if=none,id=disk,file={disk},format=qcow2,cache=unsafe"),
        *("-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"),
        *(_flash(machine.firmware) if machine.firmware else ()),
        *("-chardev", f"socket,id=agent,path={folder}/agent.sock", "-device", "virtio-serial-pci"),
        *("-device", f"virtserialport,chardev=agent,name={agent.PORT_NAME}"),
        *("-chardev", f"socket,id=qmp,path={folder}/qmp.sock", "-mon", "chardev=qmp,mode=control"),
    ]


def _flash(firmware: Firmware) -> list[str]:
    """Return the arguments for two flash chips; what the guest writes to them is not kept."""
    drive = "if=pflash,format=raw"
    return [
        *("-drive", f"{drive},unit=0,readonly=on,file={firmware.code}"),
        *("-drive", f"{drive},unit=1,snapshot=on,file={firmware.variables}"),
    ]


def make_overlay(disk: Path, backing: Path, backing_format: str) -> None:
    """Make ``disk``, a qcow2 image that takes what is written on top of ``backing``."""
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", backing_format, "-b"]
    run([*command, backing, disk])


class Qemu:
    """A running QEMU, connected; ``agent`` is the socket of the guest's agent.

    ``state`` names the file of a saved machine to go on from; without it, the machine boots.
    Raises ``LabError`` when QEMU does not start.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        disk: Path,
        ram: Path | None = None,
        share: bool = False,
        state: Path | None = None,
    ) -> None:
        self.machine = machine
        self._folder = Path(tempfile.mkdtemp(prefix="ksplice-guest-"))
        self._process: Process | None = None
        self._open = contextlib.ExitStack()
        try:
            argv = qemu_argv(machine, folder=self._folder, disk=disk, ram=ram, share=share)
            if state is not None:
                argv += ["-incoming", "defer"]
            listeners = [self._listen("agent.sock"), self._listen("qmp.sock")]
            with (self._folder / "stderr").open("wb") as err:
                guarded = ["setpriv", "--pdeathsig", "KILL", *argv]
                self._process = _spawner.submit(spawn, guarded, stderr=err).result()
            self.agent, control = [self._accept(listener) for listener in listeners]
            try:
                self.qmp = Qmp(control)
                # the memory is a file already: saved and restored is only the rest
                ignore_shared = {"capability": "x-ignore-shared", "state": True}
                self.qmp.command("migrate-set-capabilities", capabilities=[ignore_shared])
                if state is not None:
                    self.qmp.command("migrate-incoming", uri=f"exec:cat {shlex.quote(str(state))}")
            except LabError as e:
                raise self._why_not_started() from e
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End QEMU at once and remove its files."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._open.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def wait(self, timeout: float) -> None:
        """Wait until QEMU exits on its own; raises ``LabError`` when it does not."""
        assert self._process is not None
        if not wait(self._process, timeout):
            raise LabError(f"QEMU did not end within {timeout:g} s")

    def console(self) -> str:
        """Return what the guest has written to its serial console."""
        path = self._folder / "console"
        text = path.read_bytes().decode(errors="replace") if path.exists() else ""
        return text.replace("\r", "")

    @property
    def console_socket(self) -> Path:
        """The guest's serial console, for one who connects."""
        return self._folder / "console.sock"

    def console_tail(self) -> str:
        """Return the console's last lines."""
        return "\n".join(self.console().rstrip().splitlines()[-_CONSOLE_TAIL:])

    def save(self, state: Path, *, timeout: float = 120) -> None:
        """Write all but the memory to ``state``, leave the memory in its file, and end."""
        self.qmp.command("migrate", uri=f"exec:cat > {shlex.quote(str(state))}")
        deadline = time.monotonic() + timeout
        while (status := self.qmp.command("query-migrate")).get("status") != "completed":
            if status.get("status") == "failed" or time.monotonic() > deadline:
                raise LabError(f"QEMU could not save the guest: {status.get('error-desc', status)}")
            time.sleep(0.02)
        self.qmp.command("quit")
        self.wait(timeout)

    def _listen(self, name: str) -> socket.socket:
        listener = self._open.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(self._folder / name))
        listener.listen(1)
        return listener

    def _accept(self, listener: socket.socket) -> socket.socket:
        assert self._process is not None
        listener.settimeout(0.05)
        deadline = time.monotonic() + _CONNECT_TIMEOUT
        while True:
            with contextlib.suppress(TimeoutError):
                return self._open.enter_context(listener.accept()[0])
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise self._why_not_started()

    def _why_not_started(self) -> LabError:
        err = (self._folder / "stderr").read_text(errors="replace").strip()
        return LabError(f"QEMU did not start: {err or 'no message'}")
