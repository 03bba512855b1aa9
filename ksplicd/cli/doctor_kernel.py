# SPDX-License-Identifier: GPL-2.0-only
"""Whether the running kernel can be patched, and what is in the way.

All is read below ``root``, the root of the file system; nothing is changed.
"""

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ksplicd.cli.finding import Finding, bad, may_look, note, ok, read_text, unknown
from ksplicd.errors import UnexpectedError
from ksplicd.host.kernel.lockdown import is_pinned, modules_disabled, read_policy
from ksplicd.host.kernel.probes import read_probes
from ksplicd.memory_file import open_memory_file

_ARCHITECTURE: Final = "x86_64"
_SERIES: Final = (6, 1)
"""The oldest series of kernels that kmodsrc/ compiles for."""
_NEEDED: Final = ("LIVEPATCH", "MODULES", "MODULE_UNLOAD", "KALLSYMS_ALL", "STACKTRACE")
_KEY: Final = re.compile(r" asymmetri (.+?): X509", re.MULTILINE)  # /proc/keys
_SHOWN: Final = 4


def check_kernel(root: Path, machine: os.uname_result) -> Finding:
    """Return whether there is a kernel of a kind that can be patched."""
    name, release = "kernel", machine.release
    if (root / "run/systemd/container").exists():
        return bad(name, "this is a container: the kernel is the host's",
                   "run ksplicd on the host")  # fmt: skip
    if machine.machine != _ARCHITECTURE:
        return bad(name, f"{release} is for {machine.machine}",
                   f"updates are made for {_ARCHITECTURE} only")  # fmt: skip
    series = re.match(r"(\d+)\.(\d+)", release)
    if series and (int(series[1]), int(series[2])) < _SERIES:
        oldest = ".".join(map(str, _SERIES))
        return bad(name, f"{release} is older than {oldest}", f"boot a kernel from {oldest} on")
    if not may_look(root / "sys/kernel/notes"):
        return bad(name, f"{release} does not show its build id (/sys/kernel/notes)",
                   "mount sysfs; the build id says which updates fit")  # fmt: skip
    if not (root / "lib/modules" / release).is_dir():
        return note(name, f"{release} runs, and is not installed any more",
                    "its modules cannot be loaded any more: reboot when you can")  # fmt: skip
    return ok(name, f"{release}, {machine.version}")


def read_config(root: Path, release: str) -> str | None:
    """Return the configuration that the kernel was built with, or None."""
    if text := read_text(root / "boot" / f"config-{release}"):
        return text
    try:
        return gzip.decompress((root / "proc/config.gz").read_bytes()).decode(errors="replace")
    except (OSError, EOFError):
        return None


def check_livepatch(root: Path, release: str) -> Finding:
    """Return whether the kernel has livepatch, and what else is compiled in."""
    name, folder = "livepatch", root / "sys/kernel/livepatch"
    config = read_config(root, release)
    lines = (config or "").splitlines()
    lacking = [word for word in _NEEDED if config and f"CONFIG_{word}=y" not in lines]
    if not folder.is_dir() or "LIVEPATCH" in lacking:
        return bad(name, "this kernel was built without CONFIG_LIVEPATCH",
                   "boot a kernel that has it, such as one of Debian's for amd64")  # fmt: skip
    if lacking:
        words = ", ".join(f"CONFIG_{word}" for word in lacking)
        return bad(name, f"this kernel was built without {words}", "boot a kernel that has them")
    if (read_text(root / "proc/sys/kernel/ftrace_enabled") or "1") == "0":
        return bad(name, "ftrace is off (kernel.ftrace_enabled is 0), by which livepatch works",
                   "sysctl kernel.ftrace_enabled=1")  # fmt: skip
    others = sorted(e.name for e in folder.iterdir() if not e.name.startswith("ksplice_"))
    if others:
        return note(name, f"other live patches are in force: {', '.join(others)}",
                    "a function that they replace cannot be patched; see `dmesg`")  # fmt: skip
    return ok(name, "CONFIG_LIVEPATCH, ftrace is on")


def check_modules(root: Path) -> Finding:
    """Return whether modules can be loaded at all."""
    if modules_disabled(root / "proc"):
        return bad("modules", "kernel.modules_disabled is 1: no module can be loaded",
                   "reboot; `grep -r modules_disabled /etc/sysctl*` shows who sets it")  # fmt: skip
    if is_pinned(root / "sys", root / "proc"):
        return bad("modules", "LoadPin lets modules come from one file system only",
                   "sysctl kernel.loadpin.enforced=0, or boot with loadpin.enforce=0")  # fmt: skip
    return ok("modules", "modules can be loaded")


def check_lockdown(root: Path) -> Finding:
    """Return whether modules need a signature, and whose the kernel trusts."""
    policy = read_policy(root / "sys")
    if not policy:
        return ok("lockdown", "modules need no signature")
    keys = read_text(root / "proc/keys")
    names = list(dict.fromkeys(_KEY.findall(keys or "")))
    more = f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
    shown = f"; it trusts {', '.join(names[:_SHOWN])}{more}" if names else ""
    return note("lockdown", f"{policy}{shown}",
                "only updates built with --module-sign-key, by a key that is enrolled "
                "(`mokutil --import`, or the firmware's db), can be applied")  # fmt: skip


def check_memory_files(root: Path, opened: Callable[[str], int] = open_memory_file) -> Finding:
    """Return whether the modules can be handed over in files in memory."""
    name = "memory files"
    level = read_text(root / "proc/sys/vm/memfd_noexec") or "0"
    try:
        os.close(opened("ksplice-doctor"))
    except OSError as e:
        return bad(name, f"memfd_create fails: {e.strerror} (vm.memfd_noexec is {level})",
                   "sysctl vm.memfd_noexec=1")  # fmt: skip
    return ok(name, f"vm.memfd_noexec is {level}, which ksplicd obeys")


def check_kprobes(root: Path) -> Finding:
    """Return whether kprobes work, which redirect what livepatch cannot, and who uses them."""
    name, switch = "kprobes", root / "sys/kernel/debug/kprobes/enabled"
    state = read_text(switch)
    if state == "0":
        return note(name, "kprobes are off: updates that redirect functions by one are refused",
                    f"echo 1 > /{switch.relative_to(root)}")  # fmt: skip
    if state is None and not may_look(root / "sys/kernel/debug"):
        return unknown(name, "whether kprobes are on is shown to root only")
    try:
        inside = [p for p in read_probes(root / "sys") if p.offset]
    except UnexpectedError as e:
        return unknown(name, f"the kprobes in use cannot be read: {e}")
    if inside:
        shown = ", ".join(f"{p.user} at {p.function}+{p.offset:#x}" for p in inside[:_SHOWN])
        return note(name, f"kprobes are inside functions: {shown}",
                    "while they are there, an update of such a function is refused")  # fmt: skip
    return ok(name, "on, and none is inside a function")


def check_tracers(root: Path) -> Finding:
    """Return whether a tracer is on."""
    name = "tracers"
    tracing = next(
        (t for t in ("tracing", "debug/tracing") if may_look(root / "sys/kernel" / t)), None
    )
    if tracing is None:
        return unknown(name, "which tracer is on is shown to root only")
    tracer = read_text(root / "sys/kernel" / tracing / "current_tracer") or "nop"
    if tracer != "nop":
        return note(name, f"the tracer {tracer} is on",
                    "updates go on being applied; transitions may take longer")  # fmt: skip
    return ok(name, "none is on")


def check_running(root: Path, machine: os.uname_result) -> list[Finding]:
    """Return all of this module."""
    return [
        check_kernel(root, machine),
        check_livepatch(root, machine.release),
        check_modules(root),
        check_lockdown(root),
        check_memory_files(root),
        check_kprobes(root),
        check_tracers(root),
    ]
