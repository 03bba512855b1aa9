# SPDX-License-Identifier: GPL-2.0-only
"""The door to a kernel: what the host needs of one.

``linux`` implements it with the running kernel, tests/support/host/simulator.py without one.  The
door knows names and errnos, not updates: what to load, when, and what a failure means for an update
is the engine's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ksplicd.host.kernel.probes import Probe
from ksplicd.host.kernel.tripwire import Listener
from ksplicd.host.stages import Conflict


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedTarget:
    """One line of the core's ``matched``."""

    target: str
    functions: int
    bytes: int
    microseconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreState:
    """What /sys/module/ksplice_KID/ksplice/ shows."""

    stage: str
    """``preparing``, ``applied`` or ``reversed``."""
    abort_cause: str
    """``ok``, or an abort cause (``errors``)."""
    matched: tuple[MatchedTarget, ...] = ()
    mismatch: str = ""
    """Empty, or key=value pairs on one line (kmodsrc/targets.c)."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """``matched``, ``waiting`` (not loaded), ``refused`` (its last load) or ``unpatched``, by
    target."""
    tripwire_family: str = ""
    """Generic netlink family of its tripwires; empty when the update has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LivepatchState:
    """What /sys/kernel/livepatch/NAME/ shows (Documentation/livepatch in the kernel)."""

    enabled: bool
    transition: bool


class KernelDoor(Protocol):
    """A kernel, as far as live patching needs one."""

    def release(self) -> str:
        """Return ``uname -r``."""

    def version(self) -> str:
        """Return ``uname -v``."""

    def build_id(self) -> str:
        """Return the GNU build id in hex.  Raises ``UnexpectedError``."""

    def boot_id(self) -> str:
        """Return the id of this boot, 32 hex digits."""

    def is_installed(self, release: str) -> bool:
        """Return whether the modules' folder of a kernel is there, running or not."""

    def modules(self) -> frozenset[str]:
        """Return the names of the loaded modules."""

    def module_build_id(self, name: str) -> str:
        """Return the GNU build id of a loaded module in hex; empty when it shows none."""

    def livepatches(self) -> frozenset[str]:
        """Return the names of the livepatches that the kernel knows."""

    def load_module(self, data: bytes, name: str, parameters: str = "") -> None:
        """Load the module in ``data``; ``name`` is for messages, ``parameters`` are the module's.

        Raises ``ModulePresentError``, ``ModuleRefusedError``, ``MissingExportError``,
        ``OutOfMemoryError``, ``InUseError`` (a transition runs), ``UnexpectedError``.
        """

    def unload_module(self, name: str) -> None:
        """Unload a module; a module that is not loaded is no error.

        Raises ``InUseError`` when it is kept, or still in use after some tries;
        ``UnexpectedError``.
        """

    def is_kept(self, name: str) -> bool:
        """Return whether an update's module has to stay loaded until the next boot.

        It does when the kernel may hold pointers to its functions: timers, callbacks, copies of
        tables.
        """

    def lets_go(self, name: str) -> bool:
        """Return whether ftrace still lets go of an undone module's functions, one by one.

        The module cannot be unloaded before.  kmodsrc/nops.c does it after livepatch is done.
        """

    def modules_disabled(self) -> bool:
        """Return whether no module can be loaded or unloaded until the next boot.

        ``kernel.modules_disabled``, Documentation/admin-guide/sysctl/kernel.rst.
        """

    def core(self, kid: str) -> CoreState | None:
        """Return what the core module of ``kid`` shows, or None when it is not loaded."""

    def livepatch(self, name: str) -> LivepatchState | None:
        """Return the state of a livepatch, or None when the kernel does not know it."""

    def replaced(self) -> Mapping[str, frozenset[tuple[str, str, int]]]:
        """Return the functions that each livepatch replaces: (object, function, position from 1).

        The object is ``vmlinux`` or a module, loaded or not.
        """

    def set_enabled(self, name: str, *, enabled: bool) -> None:
        """Start, or turn around, the transition of a livepatch.

        Raises ``InUseError`` when another transition runs, ``UnexpectedError``.
        """

    def blockers(self, core: str, *, patched: bool) -> tuple[Conflict, ...]:
        """Return at most a thousand tasks whose patch state is ``patched``, and idle ones.

        They hold up the transition to the opposite state.  Outside a transition no task has one.
        ``core``: the core module of the update in transition, which alone shows idle tasks.
        """

    def probes(self) -> tuple[Probe, ...]:
        """Return the kprobes that the kernel shows."""

    def listen(self, family: str) -> Listener:
        """Listen to a core's tripwires.  Raises ``UnexpectedError``."""
