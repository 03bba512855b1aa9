# SPDX-License-Identifier: GPL-2.0-only
"""The running kernel behind its door (``door``): loading modules, sysfs and procfs."""

import contextlib
import ctypes
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from ksplicd.errors import (
    InUseError,
    KspliceError,
    MissingExportError,
    ModulePresentError,
    ModuleRefusedError,
    OutOfMemoryError,
    UnexpectedError,
)
from ksplicd.host.kernel.door import CoreState, LivepatchState, MatchedTarget
from ksplicd.host.kernel.lockdown import modules_disabled, why_refused
from ksplicd.host.kernel.probes import Probe, read_probes
from ksplicd.host.kernel.sysfs import (
    NOT_SHOWN,
    entries,
    folders_with,
    read_attribute,
    read_stack,
)
from ksplicd.host.kernel.tripwire import Listener, open_listener
from ksplicd.host.stages import Conflict
from ksplicd.memory_file import open_memory_file
from ksplicd.model import core_module
from ksplicd.notes import BUILD_ID_SECTION, find_build_id

_SYS_FINIT_MODULE: Final = 313  # arch/x86/entry/syscalls/syscall_64.tbl
_SYS_DELETE_MODULE: Final = 176

_UNLOAD_TRIES: Final = 100
_UNLOAD_PAUSE: Final = 0.05
"""Seconds; after a transition the kernel drops its last reference in a work queue."""

MAX_BLOCKERS: Final = 1000

_MEANINGS: Final[dict[int, tuple[type[KspliceError], str]]] = {
    errno.EEXIST: (ModulePresentError, "a module of this name is loaded; unload it first"),
    errno.EBUSY: (InUseError, "another transition runs; try again when it has ended"),
    errno.ENOMEM: (OutOfMemoryError, "the kernel has no memory for it"),
    errno.EPERM: (ModuleRefusedError, "not permitted: kernel.modules_disabled, or lockdown"),
    errno.EACCES: (ModuleRefusedError, "a security module of this kernel refuses it; see dmesg"),
    errno.EKEYREJECTED: (ModuleRefusedError, "this kernel loads signed modules only"),
    errno.ENOKEY: (ModuleRefusedError, "its signature is by a key that this kernel does not have"),
    errno.ENOEXEC: (ModuleRefusedError, "not a module for this kernel; see dmesg"),
    errno.ENOENT: (
        MissingExportError,
        "this kernel exports no such symbol; see dmesg for its name",
    ),
}
"""What an errno of finit_module means, and what to do (finit_module(2), kernel/module/main.c)."""


class SystemCalls:
    """The two system calls that Python lacks; each returns 0 or an errno."""

    def __init__(self) -> None:
        """Find libc."""
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long

    def finit_module(self, fd: int, params: bytes, flags: int) -> int:
        """Load the module that ``fd`` holds."""
        return self._call(
            _SYS_FINIT_MODULE, ctypes.c_int(fd), ctypes.c_char_p(params), ctypes.c_int(flags)
        )

    def delete_module(self, name: bytes, flags: int) -> int:
        """Unload the module ``name``."""
        return self._call(_SYS_DELETE_MODULE, ctypes.c_char_p(name), ctypes.c_uint(flags))

    def _call(self, number: int, *args: object) -> int:
        if self._syscall(ctypes.c_long(number), *args) == 0:
            return 0
        return ctypes.get_errno()


class LinuxKernel:
    """The running kernel."""

    def __init__(
        self,
        root: Path = Path("/"),
        calls: SystemCalls | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Use ``root``/sys and ``root``/proc."""
        self._sys = root / "sys"
        self._kernels = root / "lib/modules"
        self._proc = root / "proc"
        self._calls = calls or SystemCalls()
        self._sleep = sleep
        self._build_id = ""
        self._boot_id = ""

    def release(self) -> str:
        """Return ``uname -r``."""
        return os.uname().release

    def version(self) -> str:
        """Return ``uname -v``."""
        return os.uname().version

    def build_id(self) -> str:
        """Return the GNU build id in hex, from /sys/kernel/notes."""
        if self._build_id:
            return self._build_id
        path = self._sys / "kernel/notes"
        try:
            notes = path.read_bytes()
        except OSError as e:
            raise UnexpectedError(f"{path}: {e.strerror}: is this kernel's sysfs mounted?") from e
        self._build_id = find_build_id(notes)
        if not self._build_id:
            raise UnexpectedError(f"{path}: this kernel has no GNU build id")
        return self._build_id

    def boot_id(self) -> str:
        """Return the id of this boot, 32 hex digits."""
        if not self._boot_id:
            path = self._proc / "sys/kernel/random/boot_id"
            text = read_attribute(path)
            if text is None:
                raise UnexpectedError(f"{path}: is not there: is this kernel's procfs mounted?")
            self._boot_id = text.replace("-", "")
        return self._boot_id

    def is_installed(self, release: str) -> bool:
        """Look for /lib/modules/RELEASE, which a kernel's package owns."""
        return "/" not in release and (self._kernels / release / "kernel").is_dir()

    def modules(self) -> frozenset[str]:
        """Return the modules in /sys/module that are loaded rather than built in.

        Only a loaded module has ``initstate`` (kernel/module/main.c).
        """
        return frozenset(folders_with("initstate", self._sys / "module"))

    def module_build_id(self, name: str) -> str:
        """Return the GNU build id in hex, from /sys/module/NAME/notes."""
        with contextlib.suppress(OSError):
            path = self._sys / "module" / name / "notes" / BUILD_ID_SECTION
            return find_build_id(path.read_bytes())
        return ""

    def livepatches(self) -> frozenset[str]:
        """Return the names in /sys/kernel/livepatch."""
        return frozenset(folders_with("enabled", self._sys / "kernel/livepatch"))

    def load_module(self, data: bytes, name: str, parameters: str = "") -> None:
        """Load ``data`` from a sealed memfd, which nobody can change."""
        try:
            error = self._load(data, name, parameters)
        except OSError as e:
            kind = OutOfMemoryError if e.errno == errno.ENOMEM else UnexpectedError
            raise kind(f"{name}: no memory file to load it from: {e.strerror}") from e
        if error:
            cls, meaning = _MEANINGS.get(error, (UnexpectedError, "see dmesg"))
            meaning = why_refused(data, error, self._sys, self._proc) or meaning
            raise cls(f"{name}: cannot be loaded: {os.strerror(error)}: {meaning}")

    def _load(self, data: bytes, name: str, parameters: str) -> int:
        """Return 0 or the errno of finit_module; an ``OSError`` is from the memfd."""
        fd = open_memory_file(name)
        try:
            with open(fd, "wb", closefd=False) as f:
                f.write(data)
            fcntl.fcntl(
                fd,
                fcntl.F_ADD_SEALS,
                fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL,
            )
            return self._calls.finit_module(fd, parameters.encode(), 0)
        finally:
            with contextlib.suppress(OSError):  # the module is loaded already
                os.close(fd)

    def unload_module(self, name: str) -> None:
        """Unload ``name``, trying for five seconds while it is in use."""
        for attempt in range(_UNLOAD_TRIES):
            if attempt:
                self._sleep(_UNLOAD_PAUSE)
            error = self._calls.delete_module(name.encode(), os.O_NONBLOCK)
            if error in {0, errno.ENOENT}:
                return
            if error == errno.EPERM and self.modules_disabled():
                raise InUseError(
                    f"{name}: stays loaded until the next boot: kernel.modules_disabled is 1, so"
                    " that no module can be unloaded"
                )
            if error not in {errno.EAGAIN, errno.EBUSY}:
                raise UnexpectedError(f"{name}: cannot be unloaded: {os.strerror(error)}")
            if self.is_kept(name):
                raise InUseError(
                    f"{name}: stays loaded until the next boot, unused: the kernel may hold"
                    " pointers to its functions"
                )
        raise InUseError(
            f"{name}: cannot be unloaded: it is in use; `lsmod` shows by what; if it shows nothing,"
            " another live patch has replaced this one, and the module stays until the next boot"
        )

    def modules_disabled(self) -> bool:
        """Read the sysctl."""
        return modules_disabled(self._proc)

    def is_kept(self, name: str) -> bool:
        """Read the parameter that kmodsrc/new_code.c sets, of the module and of its holders."""
        folder = self._sys / "module"
        holders = [path.name for path in entries(folder / name / "holders")]
        return any(
            read_attribute(folder / module / "parameters/keeps_code") == "Y"
            for module in (name, *holders)
        )

    def lets_go(self, name: str) -> bool:
        """Read the parameter that kmodsrc/nops.c sets."""
        return read_attribute(self._sys / "module" / name / "parameters/lets_go") == "Y"

    def core(self, kid: str) -> CoreState | None:
        """Read /sys/module/ksplice_KID/ksplice/."""
        folder = self._sys / "module" / core_module(kid) / "ksplice"
        stage, cause = read_attribute(folder / "stage"), read_attribute(folder / "abort_cause")
        if stage is None or cause is None:
            return None
        return CoreState(
            stage=stage,
            abort_cause=cause,
            matched=tuple(_read_matched(folder / "matched")),
            mismatch=read_attribute(folder / "mismatch") or "",
            targets=dict(_read_targets(folder / "targets")),
            tripwire_family=read_attribute(folder / "tripwire_family") or "",
        )

    def livepatch(self, name: str) -> LivepatchState | None:
        """Read /sys/kernel/livepatch/NAME/."""
        folder = self._sys / "kernel/livepatch" / name
        enabled = read_attribute(folder / "enabled")
        transition = read_attribute(folder / "transition")
        if enabled is None or transition is None:
            return None
        return LivepatchState(enabled=enabled == "1", transition=transition == "1")

    def replaced(self) -> dict[str, frozenset[tuple[str, str, int]]]:
        """Read the names in /sys/kernel/livepatch/NAME/OBJECT/FUNCTION,POSITION."""
        found: dict[str, set[tuple[str, str, int]]] = {}
        for patch in entries(self._sys / "kernel/livepatch"):
            for target in entries(patch):
                for path in entries(target):
                    function, comma, position = path.name.rpartition(",")
                    if comma:
                        entry = target.name, function, int(position)
                        found.setdefault(patch.name, set()).add(entry)
        return {name: frozenset(entries) for name, entries in found.items()}

    def set_enabled(self, name: str, *, enabled: bool) -> None:
        """Write /sys/kernel/livepatch/NAME/enabled."""
        path = self._sys / "kernel/livepatch" / name / "enabled"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"1" if enabled else b"0")
            finally:
                with contextlib.suppress(OSError):  # the write has succeeded
                    os.close(fd)
        except OSError as e:
            if e.errno == errno.EBUSY:
                _, meaning = _MEANINGS[errno.EBUSY]
                raise InUseError(f"{path}: {meaning}") from e
            raise UnexpectedError(f"{path}: writing {enabled:d}: {e.strerror}") from e

    def blockers(self, core: str, *, patched: bool) -> tuple[Conflict, ...]:
        """Read /proc/PID/task/TID/{patch_state,comm,stack}, and of idle tasks what the core has."""
        wanted = "1" if patched else "0"
        tasks = (
            task
            for process in entries(self._proc)
            if process.name.isdecimal()
            for task in entries(process / "task")
            if read_attribute(task / "patch_state") == wanted
        )
        found = (
            Conflict(
                pid=int(task.name),
                command=read_attribute(task / "comm") or "",
                stack=read_stack(read_attribute(task / "stack", NOT_SHOWN) or ""),
            )
            for task in islice(tasks, MAX_BLOCKERS)
        )
        shown = read_attribute(self._sys / "module" / core / "ksplice/conflicts", NOT_SHOWN) or ""
        idle = read_idle_tasks(shown)
        return (*idle, *sorted(found, key=lambda conflict: conflict.pid))

    def probes(self) -> tuple[Probe, ...]:
        """Read debugfs and tracefs."""
        return read_probes(self._sys)

    def listen(self, family: str) -> Listener:
        """Listen with a netlink socket."""
        return open_listener(family)


def _read_matched(path: Path) -> Iterator[MatchedTarget]:
    for line in (read_attribute(path) or "").splitlines():
        try:
            target, functions, size, microseconds = line.split()
            yield MatchedTarget(
                target=target,
                functions=int(functions),
                bytes=int(size),
                microseconds=int(microseconds),
            )
        except ValueError:
            raise UnexpectedError(f"{path}: unexpected line: {line!r}") from None


def _read_targets(path: Path) -> Iterator[tuple[str, str]]:
    for line in (read_attribute(path) or "").splitlines():
        target, _, state = line.partition(" ")
        if not state:
            raise UnexpectedError(f"{path}: unexpected line: {line!r}")
        yield target, state


def read_idle_tasks(conflicts: str) -> list[Conflict]:
    """Return the idle tasks among what a core shows of those that hold its transition up.

    A line each, ``PID FUNCTION COMMAND``, and below it, after a tab, its stack (kmodsrc/core.c).
    All idle tasks have the process id 0, and none is in /proc.
    """
    found, stack = [], list[str]()
    for line in reversed(conflicts.splitlines()):
        if line.startswith("\t"):
            stack.insert(0, line.strip())
            continue
        pid, _, rest = line.partition(" ")
        if pid == "0":
            command = rest.partition(" ")[2]
            found.append(Conflict(pid=0, command=command, stack=read_stack("\n".join(stack))))
        stack.clear()
    return found[::-1]
